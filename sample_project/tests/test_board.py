"""The board lists, takes and judges notices."""

import io
import re

from django.test import Client, TestCase
from notes.models import Notice
from PIL import Image

from .base import PDF, MediaTestCase, picture, upload

TEXT = {"title": "Ladder to lend", "text": "Three metres, in the shed.\n\nJust ring."}


class ListingTest(TestCase):
    def test_an_empty_board_says_so(self) -> None:
        self.assertContains(self.client.get("/"), "The board is empty")

    def test_the_newest_notice_comes_first(self) -> None:
        for title in ("first", "second", "third"):
            Notice.objects.create(title=title, text="…")
        page = self.client.get("/").content.decode()
        assert re.findall(r"<h3 id=\"title-\d+\">(\w+)<", page) == ["third", "second", "first"]

    def test_older_notices_are_on_the_next_page(self) -> None:
        for number in range(13):
            Notice.objects.create(title=f"Notice {number}", text="…")
        self.assertNotContains(self.client.get("/"), ">Notice 0<")
        self.assertContains(self.client.get("/?page=2"), ">Notice 0<")

    def test_markup_in_a_notice_is_shown_and_not_run(self) -> None:
        Notice.objects.create(title="<script>alert(1)</script>", text="<b>bold</b>")
        page = self.client.get("/")
        self.assertNotContains(page, "<script")
        self.assertContains(page, "&lt;b&gt;bold")

    def test_pages_need_nothing_from_elsewhere_and_nothing_inline(self) -> None:
        for address in ("/", "/private/"):
            page = self.client.get(address).content.decode()
            assert not re.search(r"<script|<style| style=| on\w+=|(?:src|href)=\"(?:\w+:)?//", page)

    def test_the_release_is_in_the_footer(self) -> None:
        with self.settings(RELEASE="20261121T050000Z"):
            self.assertContains(self.client.get("/"), '<code id="release">20261121T050000Z</code>')

    def test_browsers_that_guess_the_icons_address_find_it(self) -> None:
        self.assertRedirects(
            self.client.get("/favicon.ico"), "/static/notes/favicon.svg", fetch_redirect_response=False
        )

    def test_an_unknown_address_gets_the_404_page(self) -> None:
        page = self.client.get("/nowhere/")
        self.assertContains(page, "not on the board", status_code=404)


class PostingTest(MediaTestCase):
    def test_a_posted_notice_is_listed(self) -> None:
        page = self.client.post("/", TEXT, follow=True)
        self.assertRedirects(page, "/")
        self.assertContains(page, "Your notice is on the board.")
        self.assertContains(page, "<p>Just ring.</p>")

    def test_a_post_without_token_gets_the_403_page(self) -> None:
        page = Client(enforce_csrf_checks=True).post("/", TEXT)
        self.assertContains(page, "could not be accepted", status_code=403)
        assert not Notice.objects.exists()

    def test_title_and_text_are_required_and_limited(self) -> None:
        for change in ({"title": ""}, {"text": " "}, {"title": "x" * 81}, {"text": "x" * 2001}):
            with self.subTest(change=change):
                self.assertContains(self.client.post("/", TEXT | change), "errorlist")
        assert not Notice.objects.exists()

    def test_files_are_kept_under_names_made_here(self) -> None:
        for kind in ("PNG", "JPEG", "WEBP", "GIF"):
            image = upload(f"../../etc/{kind}.php", picture(kind))
            attachment = upload("C:\\evil\\..\\x.html", PDF)
            page = self.client.post("/", TEXT | {"image": image, "attachment": attachment})
            self.assertRedirects(page, "/")
        names = self.stored()
        assert len(names) == 8
        for name in names:
            assert re.fullmatch(r"images/[0-9a-f]{32}\.webp|attachments/[0-9a-f]{32}\.pdf", name)

    def test_a_large_picture_is_scaled_and_its_size_is_in_the_page(self) -> None:
        self.client.post("/", TEXT | {"image": upload("a.jpg", picture("JPEG", (3200, 800)))})
        self.assertContains(self.client.get("/"), 'width="1600" height="400"')

    def test_an_attachment_is_kept_byte_by_byte(self) -> None:
        content = "Äpfel: 3 €/kg\n".encode()
        self.client.post("/", TEXT | {"attachment": upload("prices.md", content)})
        (name,) = self.stored()
        assert name.endswith(".txt")
        assert (self.media / name).read_bytes() == content

    def test_a_deleted_notice_takes_its_files_along(self) -> None:
        self.client.post("/", TEXT | {"image": upload("a.png", picture())})
        with self.captureOnCommitCallbacks(execute=True):
            Notice.objects.get().delete()
        assert self.stored() == []


class JudgingTest(MediaTestCase):
    def refused(self, field: str, name: str, content: bytes, reason: str) -> None:
        page = self.client.post("/", TEXT | {field: upload(name, content)})
        self.assertContains(page, reason)
        assert self.stored() == []
        assert not Notice.objects.exists()

    def test_what_is_not_a_whole_picture_is_refused(self) -> None:
        png, jpeg = picture(), picture("JPEG")
        damaged = bytearray(png)
        damaged[len(png) // 2] ^= 0xFF
        cases = {
            "text.png": b"just some text",
            "vector.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
            "document.png": PDF,
            "other-format.png": picture("BMP"),
            "magic-only.gif": b"GIF89a/*<script>*/=1;",
            "cut.png": png[: len(png) // 2],
            "cut.jpg": jpeg[: len(jpeg) // 2],
            "damaged.png": bytes(damaged),
        }
        for name, content in cases.items():
            with self.subTest(name):
                self.refused("image", name, content, "not a whole PNG")

    def test_a_picture_of_too_many_bytes_is_refused(self) -> None:
        self.refused("image", "big.png", picture() + bytes(5 * 1024**2), "too large")

    def test_a_picture_of_too_many_pixels_is_refused(self) -> None:
        encoded = io.BytesIO()
        Image.new("1", (6000, 5000)).save(encoded, "PNG")
        self.refused("image", "bomb.png", encoded.getvalue(), "25 million pixels")

    def test_what_hides_in_a_picture_does_not_survive(self) -> None:
        payload = b"<?php system('id') ?>"
        exif_picture = picture("JPEG", exif=b"Exif\x00\x00" + payload, comment=payload)
        for name, content in {"tail.png": picture() + payload, "meta.jpg": exif_picture}.items():
            assert payload in content
            self.client.post("/", TEXT | {"image": upload(name, content)})
        names = self.stored()
        assert len(names) == 2
        assert not any(payload in (self.media / name).read_bytes() for name in names)

    def test_what_is_neither_pdf_nor_text_is_refused(self) -> None:
        cases = {
            "program.pdf": b"\x7fELF\x02\x01\x01",
            "archive.txt": b"PK\x03\x04",
            "nul.txt": b"text\x00text",
            "latin1.txt": "Äpfel".encode("latin-1"),
        }
        for name, content in cases.items():
            with self.subTest(name):
                self.refused("attachment", name, content, "neither a PDF nor plain")

    def test_an_attachment_too_large_or_empty_is_refused(self) -> None:
        self.refused("attachment", "long.txt", b"x" * (5 * 1024**2 + 1), "too large")
        self.refused("attachment", "empty.txt", b"", "empty")
