"""The partition that Kafka's clients choose for a key by default."""

SEED, FACTOR = 0x9747B28C, 0x5BD1E995
_MASK = 0xFFFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a record with this key by the default of Java clients.

    Also of `liveprofile events replay` and `decode` (murmur2_random). Other producers may use
    another one: librdkafka's default is CRC-32.
    """
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """MurmurHash2 (Appleby, 2008), 32 bits, with the seed of Kafka."""
    value = SEED ^ len(data)
    whole = len(data) & ~3
    for first in range(0, whole, 4):
        word = int.from_bytes(data[first : first + 4], "little") * FACTOR & _MASK
        word = (word ^ word >> 24) * FACTOR & _MASK
        value = value * FACTOR & _MASK ^ word
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * FACTOR & _MASK
    value = (value ^ value >> 13) * FACTOR & _MASK
    return value ^ value >> 15
