"""The site as somebody sees it who comes by."""

import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor


def test_page_is_served_over_http_2_with_certificate_of_the_ca(site):
    answer = site.get("/")
    assert (answer.status, answer.protocol) == (200, "2"), answer.error
    assert "<h1" in answer.body


def test_certificate_has_all_domains_and_an_ec_key(site):
    shown = subprocess.run(
        f"echo | openssl s_client -connect {site.address}:443 -servername {site.canonical} 2>/dev/null"
        " | openssl x509 -noout -text",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert set(re.findall(r"DNS:([^,\s]+)", shown)) == set(site.domains)
    assert "id-ecPublicKey" in shown
    assert "Pebble Intermediate" in shown


def test_plain_http_redirects_to_canonical_name_over_https(site):
    for domain in site.domains:
        answer = site.get(f"http://{domain}/notes/?page=2")
        assert answer.status == 301
        assert answer.header("location") == f"https://{site.canonical}/notes/?page=2"


def test_other_name_redirects_to_the_canonical_name(site):
    answer = site.get(f"https://{site.domains[1]}/notes/?page=2")
    assert answer.status == 301
    assert answer.header("location") == f"https://{site.canonical}/notes/?page=2"


def test_hsts_header_is_sent_once_with_every_response(site):
    for path in ("/", "/no-such-page/", "/static/no-such-file", stylesheet(site)):
        assert site.get(path).header("strict-transport-security") == "max-age=31536000", path


def test_static_files_have_the_security_headers_of_pages(site):
    names = ("x-content-type-options", "x-frame-options", "referrer-policy", "cross-origin-opener-policy")
    file = site.get(stylesheet(site))
    values = ["nosniff", "SAMEORIGIN", "strict-origin-when-cross-origin", "same-origin"]
    assert [file.header(name) for name in names] == values


def stylesheet(site) -> str:
    return re.search(r'href="(/static/[^"]+\.css)"', site.get("/").body).group(1)


def test_only_hashed_assets_are_cached_as_immutable(site):
    hashed = stylesheet(site)
    assert re.search(r"\.[0-9a-f]{12}\.css$", hashed)
    answer = site.get(hashed)
    assert answer.status == 200
    assert answer.header("cache-control") == "public, max-age=31536000, immutable"
    assert answer.header("content-type").startswith("text/css")
    plain = site.get(re.sub(r"\.[0-9a-f]{12}\.css$", ".css", hashed))
    assert plain.status == 200
    assert plain.header("cache-control") == "public, max-age=300"


def test_asset_of_a_kept_release_is_still_served(site):
    kept = f"/srv/{site.name}/static/leftover.0123456789ab.css"
    site.host.check_output(f"printf 'body {{}}' > {kept}")
    try:
        answer = site.get("/static/leftover.0123456789ab.css")
        assert (answer.status, answer.body) == (200, "body {}")
        assert "immutable" in answer.header("cache-control")
    finally:
        site.host.check_output(f"rm {kept}")


def test_the_health_page_names_the_live_release(site):
    answer = site.get("/health/")
    assert answer.status == 200
    assert f'"release": "{site.release}"' in answer.body
    assert '"database": "ok"' in answer.body


def test_nginx_accepts_bodies_of_19_mb_and_refuses_21_mb(site, tmp_path):
    for megabytes, refused in ((19, False), (21, True)):
        (tmp_path / "body").write_bytes(b"x" * megabytes * 10**6)
        answer = site.get("/", "--data-binary", f"@{tmp_path}/body", "--http1.1")
        assert (answer.status == 413) == refused, answer.status


def test_admin_and_its_assets_are_served(site):
    page = site.get("/admin/login/")
    assert page.status == 200
    sheet = re.search(r'href="(/static/admin/[^"]+\.css)"', page.body).group(1)
    assert site.get(sheet).status == 200


def test_slow_requests_do_not_block_others(site):
    # Five pages wait for a table of the database: more than there are processes, fewer than there are threads.
    lock = "BEGIN; LOCK TABLE notes_notice IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(6); COMMIT"
    with ThreadPoolExecutor(6) as pool:
        pool.submit(site.host.run, f"runuser -u {site.name} -- psql -Xq -d {site.name} -c '{lock}'")
        time.sleep(1)
        slow = [pool.submit(site.get, "/") for _ in range(5)]
        time.sleep(1)
        began = time.monotonic()
        assert site.get("/health/").status == 200
        assert time.monotonic() - began < 2
        assert not any(page.done() for page in slow)
        assert [page.result().status for page in slow] == [200] * 5
