"""The health page tells whether the site can serve, and nothing else."""

from unittest.mock import patch

from django.db import OperationalError
from django.test import TestCase, override_settings


@override_settings(RELEASE="20261121T050000Z")
class HealthTest(TestCase):
    def test_all_is_well(self) -> None:
        answer = self.client.get("/health/")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok", "database": "ok", "release": "20261121T050000Z"}
        assert "no-store" in answer["Cache-Control"]
        assert "sessionid" not in answer.cookies

    def test_a_dead_database_is_a_503_without_details(self) -> None:
        broken = OperationalError("password of shop@10.0.0.1 refused")
        with patch("django.db.connection.cursor", side_effect=broken), self.assertLogs("notes.views", "ERROR"):
            answer = self.client.get("/health/")
        assert answer.status_code == 503
        assert answer.json() == {"status": "unavailable", "database": "unavailable", "release": "20261121T050000Z"}
        assert "no-store" in answer["Cache-Control"]

    @override_settings(
        ALLOWED_HOSTS=["lane.example"],
        SECURE_SSL_REDIRECT=True,
        SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    )
    def test_a_probe_asks_as_the_proxy_does(self) -> None:
        headers = {"host": "lane.example", "x-forwarded-proto": "https"}
        assert self.client.get("/health/", headers=headers).status_code == 200
        # No exception is made for this address.
        assert self.client.get("/health/", headers={"host": "lane.example"}).status_code == 301
        with self.assertLogs("django.security.DisallowedHost", "ERROR"):
            answer = self.client.get("/health/", headers=headers | {"host": "other.example"})
        assert answer.status_code == 400
