"""A paho-mqtt client driven by a test: commands as JSON lines on stdin, events as JSON lines on stdout.

Payloads travel as hexadecimal digits, so that they are bytes and not text.
"""

import json
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

lock = threading.Lock()


def emit(event, **fields):
    with lock:
        print(json.dumps({"event": event, **fields}), flush=True)


def code(reason):
    return reason.value if hasattr(reason, "value") else int(reason)


def properties(packet, wanted):
    """Properties by their names in paho; `UserProperty` is a list of pairs."""
    if not wanted:
        return None
    made = Properties(packet)
    for name, value in wanted.items():
        if name == "UserProperty":
            for pair in value:
                made.UserProperty = tuple(pair)
        elif name == "CorrelationData":
            made.CorrelationData = bytes.fromhex(value)
        else:
            setattr(made, name, value)
    return made


def described(given):
    if given is None:
        return {}
    found = {}
    for name, value in vars(given).items():
        if name in ("packetType", "types", "names", "properties"):
            continue
        if isinstance(value, bytes):
            value = value.hex()
        found[name] = value
    return found


class Device:
    def __init__(self):
        self.client = None

    def connect(self, c):
        self.five = c["version"] == 5
        options = {} if self.five else {"clean_session": c["clean"]}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=c["id"],
            protocol=mqtt.MQTTv5 if self.five else mqtt.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=c.get("manual_ack", False),
            transport=c.get("transport", "tcp"),
            **options,
        )
        k = self.client
        k.on_connect = lambda _k, _u, flags, reason, props: emit(
            "connected", code=code(reason), session_present=bool(flags.session_present), properties=described(props)
        )
        k.on_connect_fail = lambda _k, _u: emit("refused")
        k.on_disconnect = lambda _k, _u, _f, reason, props: emit(
            "disconnected", code=code(reason), properties=described(props)
        )
        k.on_subscribe = lambda _k, _u, _mid, reasons, _p: emit("subscribed", codes=[code(r) for r in reasons])
        k.on_unsubscribe = lambda _k, _u, _mid, reasons, _p: emit("unsubscribed", codes=[code(r) for r in reasons])
        k.on_publish = lambda _k, _u, mid, reason, _p: emit("published", mid=mid, code=code(reason))
        k.on_message = self.message
        if c.get("path"):
            k.ws_set_options(path=c["path"])
        if c.get("ca"):
            k.tls_set(ca_certs=c["ca"])
        if c.get("username") is not None:
            k.username_pw_set(c["username"], c.get("password"))
        k.max_inflight_messages_set(c.get("window", 20))
        k.max_queued_messages_set(0)
        if will := c.get("will"):
            k.will_set(
                will["topic"],
                bytes.fromhex(will["payload"]),
                will["qos"],
                will["retain"],
                properties(PacketTypes.WILLMESSAGE, will.get("properties")) if self.five else None,
            )
        extra = {}
        if self.five:
            extra["clean_start"] = c["clean"]
            extra["properties"] = properties(PacketTypes.CONNECT, c.get("properties"))
        k.connect(c["host"], c["port"], keepalive=c.get("keep_alive", 60), **extra)
        k.loop_start()

    def message(self, _client, _userdata, m):
        emit(
            "message",
            topic=m.topic,
            payload=m.payload.hex(),
            qos=m.qos,
            retain=bool(m.retain),
            dup=bool(m.dup),
            mid=m.mid,
            properties=described(getattr(m, "properties", None)),
        )

    def subscribe(self, c):
        if self.five:
            options = SubscribeOptions(
                qos=c["qos"],
                noLocal=c.get("no_local", False),
                retainAsPublished=c.get("retain_as_published", False),
                retainHandling=c.get("retain_handling", 0),
            )
            given = properties(PacketTypes.SUBSCRIBE, c.get("properties"))
            self.client.subscribe([(f, options) for f in c["filters"]], properties=given)
        else:
            self.client.subscribe([(f, c["qos"]) for f in c["filters"]])

    def unsubscribe(self, c):
        self.client.unsubscribe(c["filters"])

    def publish(self, c):
        given = properties(PacketTypes.PUBLISH, c.get("properties")) if self.five else None
        info = self.client.publish(c["topic"], bytes.fromhex(c["payload"]), c["qos"], c["retain"], properties=given)
        emit("queued", mid=info.mid, rc=int(info.rc))

    def ack(self, c):
        self.client.ack(c["mid"], c["qos"])

    def disconnect(self, c):
        if self.five:
            reason = ReasonCode(PacketTypes.DISCONNECT, identifier=c.get("code", 0))
            given = properties(PacketTypes.DISCONNECT, c.get("properties"))
            self.client.disconnect(reasoncode=reason, properties=given)
        else:
            self.client.disconnect()

    def vanish(self, _c):
        """Ends the connection without a word, as a device does that loses its power."""
        self.client.loop_stop()
        self.client.socket().close()
        emit("vanished")


def main():
    device = Device()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            getattr(device, command["do"])(command)
        except Exception as error:  # The test decides what an error means.
            emit("error", text=f"{type(error).__name__}: {error}")


main()
