"""A task of celery's, and its settings: nothing that subscribes, since a subscription can't be moved."""

import os

import redis
from celery import Celery

url = os.environ["REDIS_URL"]
app = Celery("tasks", broker=url)
app.conf.update(
    task_ignore_result=True,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=False,
    worker_prefetch_multiplier=1,
)
client = redis.Redis.from_url(url)


@app.task
def append(number):
    client.rpush("done:celery", number)
