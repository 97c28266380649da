from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            "Tick",
            [
                ("id", models.AutoField(primary_key=True)),
                ("asked_by", models.CharField(max_length=40)),
                ("done_by", models.CharField(max_length=40)),
            ],
        ),
    )
