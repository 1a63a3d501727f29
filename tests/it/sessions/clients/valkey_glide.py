"""valkey-glide: HOST PORT PROTOCOL."""

import sys

from glide import GlideClient, GlideClientConfiguration, Logger, LogLevel, NodeAddress, ProtocolVersion

from harness import check, work_async

host, port, protocol = sys.argv[1:]
Logger.set_logger_config(LogLevel.WARN)


async def start():
    client = await GlideClient.create(
        GlideClientConfiguration(
            [NodeAddress(host, int(port))],
            database_id=4,
            client_name="glide",
            request_timeout=20_000,
            protocol=ProtocolVersion.RESP3 if protocol == "3" else ProtocolVersion.RESP2,
        )
    )

    async def step(number):
        await client.set(protocol, str(number))
        check(await client.get(protocol), number)
        await client.rpush(f"list:{protocol}", [str(number)])
        assert await client.client_getname() == b"glide"

    return step


work_async(start)
