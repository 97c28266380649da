"""gunicorn in a container, with the settings that roles/gunicorn of django_vps.stack has by default."""

import contextlib
import os

wsgi_app = "config.wsgi"
bind = "0.0.0.0:8000"
worker_class = "gthread"
cores = len(os.sched_getaffinity(0))
megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
# Neither of them shows a limit of the container, so set WEB_CONCURRENCY with it.
workers = int(os.environ.get("WEB_CONCURRENCY") or max(2, min(cores, megabytes // 256)))
threads = 4
# A process accepts only as many requests as it has threads, so the next request goes to a free process.
worker_connections = threads
# nginx opens a connection for each request.
keepalive = 0
timeout = 30
graceful_timeout = 30

# A request can have several cookies of 4 KB; nginx has the same limit.
limit_request_field_size = 16384

# The heartbeat of a worker must not wait for a disk.
worker_tmp_dir = "/dev/shm"

# Only nginx is in the network of this port.
forwarded_allow_ips = "*"

# Docker starts and stops gunicorn, so a control socket is not needed.
control_socket_disable = True

# Errors go to the log of the container; nginx logs the requests.
errorlog = "-"
accesslog = None


def post_worker_init(worker):
    # Django imports the URLconf, and with it most of a project, at the first request, whose client would wait for it.
    # An import error is reported at that request, as it is without this.
    with contextlib.suppress(Exception):
        from django.urls import get_resolver

        list(get_resolver().url_patterns)
