from django.db import migrations, models

import notes.models


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            "Note",
            [
                ("id", models.AutoField(primary_key=True)),
                ("text", models.CharField(max_length=100)),
                ("file", models.FileField(storage=notes.models.private, upload_to="")),
            ],
        ),
    )
