"""A private file is its uploader's alone."""

import re

from django.test import Client, override_settings
from notes.models import PrivateFile

from .base import PDF, MediaTestCase, picture, upload


class PrivateFileTest(MediaTestCase):
    def store(self, name: str = "letter.pdf", content: bytes = PDF) -> str:
        self.assertRedirects(self.client.post("/private/", {"file": upload(name, content)}), "/private/")
        return f"/private/{PrivateFile.objects.first().pk}/"

    def test_nginx_is_told_which_file_to_send(self) -> None:
        answer = self.client.get(self.store())
        assert answer.status_code == 200
        assert answer.content == b""
        (name,) = self.stored()
        assert re.fullmatch(r"private/[0-9a-f]{32}\.pdf", name)
        assert answer["X-Accel-Redirect"] == f"/media/{name}"
        assert answer["Content-Type"] == "application/pdf"
        assert answer["Content-Disposition"] == 'attachment; filename="letter.pdf"'
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert "no-store" in answer["Cache-Control"]

    @override_settings(DEBUG=True)
    def test_django_sends_the_file_itself_in_development(self) -> None:
        answer = self.client.get(self.store())
        assert b"".join(answer) == PDF
        assert answer["Content-Disposition"] == 'attachment; filename="letter.pdf"'
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert "X-Accel-Redirect" not in answer

    def test_another_session_sees_nothing(self) -> None:
        address = self.store()
        self.assertContains(self.client.get("/private/"), address)
        stranger = Client()
        self.assertNotContains(stranger.get("/private/"), address)
        assert stranger.get(address).status_code == 404
        # nor with files of its own
        stranger.post("/private/", {"file": upload("own.txt", b"own")})
        assert stranger.get(address).status_code == 404

    def test_looking_makes_no_session(self) -> None:
        assert "sessionid" not in self.client.get("/private/").cookies

    def test_no_address_leads_out_of_the_folder(self) -> None:
        self.store()
        for path in ("../../manage.py", "..%2f..%2fmanage.py", "%2e%2e/", "....//", "0" * 32):
            assert self.client.get(f"/private/{path}").status_code == 404

    def test_the_clients_name_is_a_clean_label_and_no_path(self) -> None:
        cases = {
            "../../../etc/passwd": "passwd.txt",
            "a\u202egpj.exe": "agpj.txt",
            "Brief für “Jo”.txt": "Brief für “Jo”.txt",
            "x" * 200 + ".txt": "x" * 80 + ".txt",
        }
        for sent, label in cases.items():
            with self.subTest(sent):
                address = self.store(sent, b"text")
                assert PrivateFile.objects.first().name == label
                disposition = self.client.get(address)["Content-Disposition"]
                assert disposition.startswith("attachment; filename")
        assert all(re.fullmatch(r"private/[0-9a-f]{32}\.txt", name) for name in self.stored())

    def test_only_documents_are_stored(self) -> None:
        for content in (picture(), b"\x00", b"x" * (5 * 1024**2 + 1)):
            page = self.client.post("/private/", {"file": upload("a.pdf", content)})
            self.assertContains(page, "errorlist")
        self.assertContains(self.client.post("/private/"), "This field is required")
        assert self.stored() == []
