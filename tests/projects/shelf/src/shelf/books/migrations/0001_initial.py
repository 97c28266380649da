from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            "Book",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("title", models.CharField(max_length=80, unique=True)),
                ("cover", models.FileField(default="default.txt", upload_to="")),
            ],
        ),
    )
