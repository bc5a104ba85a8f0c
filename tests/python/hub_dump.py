"""Prints every message of a JetStream stream as JSON lines, read by nats-py: hub_dump.py URL STREAM"""

import asyncio
import json
import sys

import nats


async def main(url, stream):
    client = await nats.connect(url, max_reconnect_attempts=1)
    js = client.jetstream()
    state = (await js.stream_info(stream)).state
    if state.messages > 0:
        subscription = await js.subscribe(">", stream=stream, ordered_consumer=True)
        while True:
            message = await subscription.next_msg(timeout=20)
            sequence = message.metadata.sequence.stream
            print(
                json.dumps(
                    {
                        "sequence": sequence,
                        "subject": message.subject,
                        "headers": sorted((message.headers or {}).items()),
                        "payload": message.data.hex(),
                    }
                )
            )
            if sequence >= state.last_seq:
                break
    await client.close()


asyncio.run(main(sys.argv[1], sys.argv[2]))
