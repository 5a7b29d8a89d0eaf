#!/usr/bin/env python3
"""redis-py uses a cluster by its ordinary calls: see README.md.

python_calls.py ADDRESS,ADDRESS,... calls|kill SECONDS
"""

import sys
import time

import redis


def check(is_so, what):
    if not is_so:
        raise SystemExit(f"redis-py: {what}")


def equal(came, expected, what):
    check(came == expected, f"{what}: {came!r} came, {expected!r} was expected")


def open_one(address, **options):
    # Where there is a password the address is as in a URL: `:password@host:port`.
    before, _, place = address.rpartition("@")
    host, port = place.rsplit(":", 1)
    if before:
        options["password"] = before.lstrip(":")
    options = {"decode_responses": True, "socket_timeout": 20, "socket_connect_timeout": 2, "health_check_interval": 0} | options
    return redis.Redis(host=host, port=int(port), **options)


def calls(addresses):
    for protocol in (2, 3):
        for address in addresses:
            with open_one(address, protocol=protocol, client_name="redis-py") as client:
                one(client, f"RESP{protocol} at {address}")
    return "all calls are answered as Redis answers them"


def one(client, where):
    def same(came, expected, what):
        equal(came, expected, f"{where}, {what}")

    same(client.ping(), True, "PING")
    same(client.client_getname(), "redis-py", "CLIENT GETNAME")
    same(client.set("py:text", "value"), True, "SET")
    same(client.get("py:text"), "value", "GET")
    same(client.get("py:absent"), None, "GET of nothing")
    same(client.set("py:text", "other", nx=True), None, "SET NX")
    same(client.set("py:text", "other", get=True), "value", "SET GET")
    same(client.set("py:short", "lived", ex=100), True, "SET EX")
    check(99 <= client.ttl("py:short") <= 100, f"{where}, TTL")
    same(client.persist("py:short"), True, "PERSIST")
    same(client.expire("py:short", 50), True, "EXPIRE")
    same(client.expire("py:short", 10, gt=True), False, "EXPIRE GT")
    client.delete("py:number")
    same(client.incr("py:number", 5), 5, "INCRBY")
    same(client.decr("py:number"), 4, "DECR")
    same(client.incrbyfloat("py:number", 0.5), 4.5, "INCRBYFLOAT")
    same(client.append("py:number", "1"), 4, "APPEND")
    same(client.getrange("py:number", 1, -1), ".51", "GETRANGE")
    same(client.strlen("py:number"), 4, "STRLEN")
    same(client.getdel("py:number"), "4.51", "GETDEL")
    same(client.mset({"py:a": 1, "py:b": 2}), True, "MSET")
    same(client.mget("py:a", "py:absent", "py:b"), ["1", None, "2"], "MGET")
    same(client.exists("py:a", "py:b", "py:absent"), 2, "EXISTS")
    same(client.type("py:a"), "string", "TYPE")
    pipeline = client.pipeline(transaction=False)
    for i in range(1000):
        pipeline.set(f"py:pipe:{i}", i)
    for i in range(1000):
        pipeline.get(f"py:pipe:{i}")
    same(pipeline.execute(), [True] * 1000 + [str(i) for i in range(1000)], "a pipeline")
    same(len(set(client.scan_iter("py:pipe:*", count=200))), 1000, "SCAN")
    same(client.delete(*client.keys("py:pipe:*")), 1000, "KEYS and DEL")
    check(client.dbsize() > 0, f"{where}, DBSIZE")
    same(client.info("replication")["role"], "master", "INFO")
    same(client.config_get("save"), {"save": ""}, "CONFIG GET")
    same(client.command_count(), len(client.command()), "COMMAND")
    check(any(one["name"] == "redis-py" for one in client.client_list()), f"{where}, CLIENT LIST")
    check(abs(client.time()[0] - time.time()) < 60, f"{where}, TIME")
    check(client.wait(1, 5000) >= 1, f"{where}, WAIT")
    known = client.connection_pool.connection_kwargs
    binary = open_one(f"{known['host']}:{known['port']}", decode_responses=False, password=known.get("password"))
    binary.set(b"py:\x00\r\n", bytes(range(256)))
    same(binary.get(b"py:\x00\r\n"), bytes(range(256)), "a key and a value of any bytes")
    try:
        client.lpush("py:list", 1)
        raise SystemExit(f"{where}: LPUSH was carried out")
    except redis.ResponseError as error:
        check("unknown command" in str(error), f"{where}: {error}")


def long_pipeline(addresses):
    """A pipeline whose answers come to more than any buffer of sockets, and that is sent whole before one is read."""
    with open_one(addresses[0]) as client:
        client.set("py:long", "x" * 100_000)
        pipeline = client.pipeline(transaction=False)
        for _ in range(400):
            pipeline.get("py:long")
            # So that what is sent fills the buffers, too.
            pipeline.echo("y" * 50_000)
        answers = pipeline.execute()
        equal({len(answer) for answer in answers}, {100_000, 50_000}, "the answers of a long pipeline")
        client.delete("py:long")


def kill(addresses, seconds):
    """Writes for so long, beginning with the last node, which is the one that is killed."""
    stored, added, errors, turn, number = {}, 0, 0, 0, 0
    client = None
    start = time.monotonic()
    # A busy machine has more time, so that there is something to judge.
    while time.monotonic() - start < (seconds if len(stored) > 100 else max(seconds, 60)):
        try:
            if client is None:
                client = open_one(addresses[-1 - turn % len(addresses)], retry=None)
                turn += 1
                client.ping()
            key = f"py:kill:{number}"
            number += 1
            client.set(key, f"value {number}")
            stored[key] = f"value {number}"
            client.incr("py:kill")
            added += 1
        except redis.RedisError:
            errors += 1
            client = None
    with open_one(addresses[0]) as client:
        for key, value in stored.items():
            equal(client.get(key), value, key)
        found = int(client.get("py:kill"))
    check(added <= found <= added + errors, f"the number is {found}: {added} to {added + errors} was expected")
    check(len(stored) > 100, f"only {len(stored)} writes were answered")
    return f"{len(stored) + added} writes were answered and are there, {errors} calls failed"


def main(words):
    if len(words) == 2 and words[1] == "calls":
        said = calls(words[0].split(","))
        long_pipeline(words[0].split(","))
    elif len(words) == 3 and words[1] == "kill":
        said = kill(words[0].split(","), float(words[2]))
    else:
        raise SystemExit(__doc__)
    print(f"redis-py {redis.__version__}: {said}")


main(sys.argv[1:])
