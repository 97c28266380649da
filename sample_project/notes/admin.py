from django.contrib import admin

from .models import Notice

admin.site.site_header = admin.site.site_title = "Maple Lane"


@admin.register(Notice)
class NoticeAdmin(admin.ModelAdmin):
    """Moderation. Files come only through the board's form, which checks them."""

    list_display = ("title", "created")
    search_fields = ("title", "text")
    readonly_fields = ("image", "attachment", "created")
