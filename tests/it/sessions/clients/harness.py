"""What the clients of this folder have in common: they work while they are told to, and tell what goes wrong."""

import asyncio
import logging
import sys
import threading
import time

# A library that reconnects says so.
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)


def say(line):
    print(line, flush=True)


def check(value, number):
    """A value is the number that was set, or an older one: a failover of Sentinel's loses what was set in its midst."""
    assert 0 <= int(value) <= number, f"{value} instead of {number}"


def work(step):
    """Calls step(number) again and again. "idle" has it pause, "load" go on, and the end of the input is the end."""
    told = {"mode": "load"}
    heard = threading.Condition()

    def listen():
        for line in sys.stdin:
            with heard:
                told["mode"] = line.strip()
                heard.notify()
        with heard:
            told["mode"] = "end"
            heard.notify()

    threading.Thread(target=listen, daemon=True).start()
    number = 0
    while told["mode"] != "end":
        if told["mode"] == "idle":
            say("idle")
            with heard:
                heard.wait_for(lambda: told["mode"] != "idle")
            continue
        try:
            step(number)
            say("step")
        except Exception as error:
            say(f"error {type(error).__name__}: {error}")
        number += 1
        time.sleep(0.025)
    say("done")


def work_async(start):
    """The same for an asynchronous client: start() makes one, and returns its step."""
    loop = asyncio.new_event_loop()
    step = loop.run_until_complete(start())
    work(lambda number: loop.run_until_complete(step(number)))
