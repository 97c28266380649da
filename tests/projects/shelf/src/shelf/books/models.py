from django.db import models


class Book(models.Model):
    title = models.CharField(max_length=80, unique=True)
    cover = models.FileField(default="default.txt")
