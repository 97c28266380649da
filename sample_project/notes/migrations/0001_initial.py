import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Notice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("title", models.CharField(max_length=80)),
                ("text", models.TextField(max_length=2000)),
                (
                    "image",
                    models.ImageField(
                        blank=True, height_field="image_height", upload_to="images", width_field="image_width"
                    ),
                ),
                ("image_width", models.PositiveIntegerField(editable=False, null=True)),
                ("image_height", models.PositiveIntegerField(editable=False, null=True)),
                ("attachment", models.FileField(blank=True, upload_to="attachments")),
                ("created", models.DateTimeField(auto_now_add=True, db_index=True)),
            ],
            options={"ordering": ("-created", "-pk")},
        ),
        migrations.CreateModel(
            name="PrivateFile",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("owner", models.CharField(db_index=True, editable=False, max_length=43)),
                ("name", models.CharField(max_length=100)),
                ("file", models.FileField(upload_to="private")),
                ("size", models.PositiveIntegerField()),
                ("created", models.DateTimeField(auto_now_add=True)),
            ],
            options={"ordering": ("-created", "-pk")},
        ),
    )
