from django.db import models


class Tick(models.Model):
    """That the scheduler of a release has asked, and the worker of one has done."""

    asked_by = models.CharField(max_length=40)
    done_by = models.CharField(max_length=40)
