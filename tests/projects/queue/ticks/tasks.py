import os

from celery import shared_task

from .models import Tick


@shared_task
def tick(release):
    Tick.objects.create(asked_by=release, done_by=os.environ["RELEASE"])
    return Tick.objects.count()


@shared_task
def double(number):
    return 2 * number
