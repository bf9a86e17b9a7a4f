"""asyncio under load: a server and its clients over loopback, JSON both ways, with queues, timeouts, cancellation,
executor threads, context variables and child processes; every answer is compared with what it must be.
"""

import asyncio
import contextvars
import hashlib
import json
import random
import sys

from common import Soak, churn, insist, weight

CLIENTS, REQUESTS, LINE_LIMIT = 40, 25, 1 << 20
soak = Soak()
request_number = contextvars.ContextVar("request_number")


def digest(items):
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()


def compute(seed):
    objects, total = churn(random.Random(seed), 60)
    insist(weight(objects) == total, "an executor's objects")
    return total


async def answer(request):
    request_number.set(request["n"])
    items = request["items"]
    await asyncio.sleep(0)
    insist(request_number.get() == request["n"], "a context variable")
    result = {"n": request["n"], "digest": digest(items), "sorted": sorted(items, key=str)}
    if request["n"] % 50 == 0:
        result["computed"] = await asyncio.get_running_loop().run_in_executor(None, compute, request["n"])
    if request["n"] % 200 == 0:
        soak.check()
    return result


async def serve(reader, writer):
    try:
        while True:
            line = await reader.readline()
            if not line:
                break
            writer.write(json.dumps(await answer(json.loads(line))).encode() + b"\n")
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def make_request(rng, n):
    return {"n": n, "items": [rng.choice((n, "é%d" % n, [n] * 3, {"n": n}, 1.5 * n, None, "x" * rng.randrange(300)))
                              for _ in range(rng.randrange(40))]}


async def client(port, number):
    rng = random.Random(soak.rounds * 1000 + number)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE_LIMIT)
    for n in range(number * REQUESTS, (number + 1) * REQUESTS):
        request = make_request(rng, n)
        writer.write(json.dumps(request).encode() + b"\n")
        got = json.loads(await reader.readline())
        insist(got["n"] == n and got["digest"] == digest(request["items"]), "an answer")
        insist(got["sorted"] == sorted(request["items"], key=str), "a sorted answer")
        if n % 50 == 0:
            insist(got["computed"] == churn(random.Random(n), 60)[1], "a computed answer")
        if rng.randrange(200) == 0:  # hangs up and comes again
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE_LIMIT)
    writer.close()
    soak.count("requests", REQUESTS)
    return number


async def queues():
    """Producers and consumers over one bounded queue; consumers are cancelled at its end."""
    queue, taken = asyncio.Queue(20), []

    async def produce(n):
        for value in range(100):
            await queue.put((n, value, [value] * (value % 9)))

    async def consume():
        while True:
            n, value, kept = await queue.get()
            insist(len(kept) == value % 9, "a queue's item")
            taken.append(value)
            queue.task_done()

    consumers = [asyncio.ensure_future(consume()) for _ in range(7)]
    await asyncio.gather(*(produce(n) for n in range(5)))
    await queue.join()
    for task in consumers:
        task.cancel()
    ended = await asyncio.gather(*consumers, return_exceptions=True)
    insist(all(isinstance(each, asyncio.CancelledError) for each in ended), "cancelled consumers")
    insist(len(taken) == 500 and sum(taken) == 5 * 4950, "a queue's sum")
    soak.count("queued", 500)


async def timeouts():
    """Tasks that are stopped deep in their awaits, half of them in time."""
    freed = []

    async def deep(depth, seconds):
        kept = bytes(depth * 10)
        try:
            if depth:
                await deep(depth - 1, seconds)
            else:
                await asyncio.sleep(seconds)
        finally:
            freed.append(len(kept))

    async def one(n):
        try:
            await asyncio.wait_for(deep(40, 3600 if n % 2 else 0), 0.02 if n % 2 else 3600)
            return 0
        except asyncio.TimeoutError:
            return 1

    ended = await asyncio.gather(*(one(n) for n in range(60)))
    insist(sum(ended) == 30, "%d of 30 timeouts" % sum(ended))
    insist(len(freed) == 60 * 41 and sum(freed) == 60 * 10 * 820, "frames that were unwound")
    soak.count("timeouts", 30)


async def child():
    code = "import json; print(json.dumps(sorted(range(500), key=str)))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", code,
                                                   stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    insist(process.returncode == 0 and json.loads(out) == sorted(range(500), key=str), "a child process")
    soak.count("children")


async def one_round():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=LINE_LIMIT)
    port = server.sockets[0].getsockname()[1]
    done = await asyncio.gather(*(client(port, number) for number in range(CLIENTS)), queues(), timeouts(), child())
    insist(done[:CLIENTS] == list(range(CLIENTS)), "the clients")
    server.close()
    await server.wait_closed()


async def main():
    while soak.going():
        await one_round()
        await asyncio.sleep(0.01)
        soak.settle()


asyncio.run(main())
soak.finish()
