"""Keys that spread the partitions of a topic evenly over the tasks of an operator.

Flink assigns a key to a task by a hash. Few keys, such as the numbers of four partitions, often
share one task. These keys fall into key groups that lie far apart, in the order of the van der
Corput sequence, so that any number of partitions is spread over any number of tasks.
"""

from __future__ import annotations

# Position = partition. With Flink's default of 128 key groups, the key at position p falls into
# the group whose number is p with its seven bits reversed. A key never changes: it is in the state.
KEYS = (
    *(35, 46, 198, 74, 331, 80, 12, 3, 68, 17, 172, 323, 18, 101, 15, 173),
    *(7, 154, 116, 235, 36, 63, 130, 62, 96, 109, 88, 31, 333, 19, 273, 98),
    *(54, 100, 247, 32, 162, 49, 45, 110, 128, 119, 131, 6, 47, 71, 64, 171),
    *(97, 107, 13, 0, 4, 328, 190, 155, 104, 27, 60, 9, 102, 1, 24, 52),
    *(41, 34, 207, 228, 424, 94, 386, 186, 28, 164, 281, 140, 23, 174, 29, 568),
    *(84, 42, 123, 82, 246, 194, 11, 139, 69, 16, 50, 26, 10, 2, 91, 115),
    *(460, 138, 81, 61, 5, 163, 304, 20, 59, 44, 286, 345, 33, 126, 8, 244),
    *(57, 73, 92, 86, 38, 87, 53, 79, 99, 133, 540, 43, 200, 14, 85, 77),
)
_NEXT = 1_000  # above all keys: the distance between two partitions at the same position


def partition_key_sql(partition: str) -> str:
    """SQL, INT: the key of a partition. Different partitions have different keys."""
    keys = ", ".join(map(str, KEYS))
    n = len(KEYS)
    return f"(ARRAY[{keys}][MOD({partition}, {n}) + 1] + {_NEXT} * ({partition} / {n}))"
