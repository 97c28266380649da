"""The board, the private files, and the health of the site."""

import logging
import mimetypes
import secrets
from uuid import UUID

from django import db
from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.templatetags.static import static
from django.utils.http import content_disposition_header
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from .forms import NoticeForm, PrivateFileForm
from .models import Notice, PrivateFile

logger = logging.getLogger(__name__)


@require_http_methods(["GET", "HEAD", "POST"])
def board(request: HttpRequest) -> HttpResponse:
    """List the notices, newest first, and take a new one."""
    posted = request.method == "POST"
    form = NoticeForm(request.POST, request.FILES) if posted else NoticeForm()
    if posted and form.is_valid():
        form.save()
        messages.success(request, "Your notice is on the board.")
        return redirect("board")
    page = Paginator(Notice.objects.all(), 12).get_page(request.GET.get("page"))
    return render(request, "notes/board.html", {"form": form, "page": page})


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def private(request: HttpRequest) -> HttpResponse:
    """List the files of this session and take a new one."""
    posted = request.method == "POST"
    form = PrivateFileForm(request.POST, request.FILES) if posted else PrivateFileForm()
    if posted and form.is_valid():
        form.instance.owner = request.session.setdefault("owner", secrets.token_urlsafe())
        form.save()
        messages.success(request, "Your file is stored. Only this browser can fetch it.")
        return redirect("private")
    return render(request, "notes/private.html", {"form": form, "files": own_files(request)})


@never_cache
@require_safe
def private_file(request: HttpRequest, file_id: UUID) -> HttpResponseBase:
    """Deliver a file to the session that uploaded it, always as a download."""
    stored = get_object_or_404(own_files(request), pk=file_id)
    if settings.DEBUG:
        return FileResponse(stored.file.open(), as_attachment=True, filename=stored.name)
    # nginx sends the file: its /media/private/ is internal.
    return HttpResponse(
        content_type=mimetypes.guess_type(stored.name)[0],
        headers={
            "Content-Disposition": content_disposition_header(True, stored.name),
            "X-Accel-Redirect": stored.file.url,
        },
    )


@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    """Answer 200 when the site can serve, 503 when its database cannot."""
    try:
        with db.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except db.Error:
        logger.exception("The database does not answer")
        state, database, status = "unavailable", "unavailable", 503
    else:
        state, database, status = "ok", "ok", 200
    body = {"status": state, "database": database, "release": settings.RELEASE}
    return JsonResponse(body, status=status)


@require_safe
def favicon(request: HttpRequest) -> HttpResponse:
    """Answer browsers that ask for the old address without reading a page."""
    return redirect(static("notes/favicon.svg"))


def own_files(request: HttpRequest) -> db.models.QuerySet[PrivateFile]:
    """Return the files of this session; a session without a mark has none."""
    owner = request.session.get("owner")
    return PrivateFile.objects.filter(owner=owner) if owner else PrivateFile.objects.none()
