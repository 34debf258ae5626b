"""Writes CTF 1.8 traces by hand, for what no tracer can be asked for here: the
metadata as text, one stream, one packet."""
import os
import struct

METADATA = """/* CTF 1.8 */
typealias integer { size = 8; align = 8; signed = false; } := u8;
typealias integer { size = 32; align = 8; signed = false; } := u32;
typealias integer { size = 32; align = 8; signed = true; } := i32;
typealias integer { size = 64; align = 8; signed = false; } := u64;
typealias integer { size = 64; align = 8; signed = true; } := i64;
typealias floating_point { exp_dig = 11; mant_dig = 53; align = 8; } := f64;
trace { major = 1; minor = 8; byte_order = le; packet.header := struct { u32 magic; u32 stream_id; }; };
clock { name = c; freq = 1000000000; offset = 0; %s };
typealias integer { size = 64; align = 8; signed = false; map = clock.c.value; } := stamp;
stream { id = 0; event.header := struct { u32 id; stamp timestamp; };
	packet.context := struct { stamp timestamp_begin; stamp timestamp_end; u64 content_size; u64 packet_size; u64 events_discarded; u32 cpu_id; };
	event.context := struct { %s };
};
"""
KINDS = {"u8": "<B", "u32": "<I", "i32": "<i", "u64": "<Q", "i64": "<q", "f64": "<d"}


def encode(kind, value):
    if kind == "string":
        return value.encode(errors="surrogateescape") + b"\0"
    if kind.startswith("enum"):
        kind, value = "i32", value
    if kind.endswith("]"):  # u32[4], or u8[_n] with its length
        return b"".join(encode(kind.split("[")[0], v) for v in value)
    return struct.pack(KINDS[kind], value)


def declare(name, kind):
    if kind.startswith("enum "):
        return "enum : i32 { %s } %s;" % (kind[5:], name)
    if kind.endswith("]"):
        return "%s %s[%s" % (kind.split("[")[0], name, kind.split("[")[1] + ";")
    return "%s %s;" % (kind, name)


def write(folder, classes, events, context=(), clock="absolute = true;", discarded=0):
    """classes: {event: [(field, kind)]}; events: [(ns, event, context values, values)], in order;
    context: [(field, kind)] of all of them."""
    os.makedirs(folder, exist_ok=True)
    names = list(classes)
    text = METADATA % (clock, " ".join(declare(*f) for f in context))
    for i, name in enumerate(names):
        text += 'event { name = "%s"; id = %d; stream_id = 0; fields := struct { %s }; };\n' % (
            name, i, " ".join(declare(*f) for f in classes[name]))
    with open(os.path.join(folder, "metadata"), "w") as f:
        f.write(text)
    parts = []
    for ns, name, ctx, values in events:
        parts.append(struct.pack("<IQ", names.index(name), ns))
        parts += [encode(kind, v) for (_, kind), v in zip(context, ctx)]
        parts += [encode(kind, v) for (_, kind), v in zip(classes[name], values)]
    body = b"".join(parts)
    head = 4 + 4 + 5 * 8 + 4
    bits = 8 * (head + len(body))
    with open(os.path.join(folder, "stream"), "wb") as f:
        f.write(struct.pack("<IIQQQQQI", 0xC1FC1FC1, 0, events[0][0], events[-1][0], bits, bits, discarded, 0) + body)
