"""`liveprofile events decode`: turns records in other formats into events of the input topic."""

from __future__ import annotations

import logging
from contextlib import closing

from cli.common import ConfigOption, JsonOption, print_fields, print_json, read_settings


def decode(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Decode events in Confluent wire format and CloudEvents, until Ctrl-C or SIGTERM.

    It reads the topic `topics.encoded` and sends JSON events, keyed by user, to the input topic.
    The format of each record is recognised: JSON Schema or Avro with a schema of the registry
    `decoder.registry_url`, CloudEvents in structured or binary mode, or JSON, which stays as it is.
    A record that cannot be decoded goes to the rejected topic with the reason. While the registry
    does not answer, it waits. At the end the counts are printed.

    Several decoders share the partitions. Each record is sent at least once. docs/data-contract.md
    has the rules.

    Example: `liveprofile events decode --config liveprofile.toml --json`
    """
    from liveprofile.alerts.consumer.loop import stop_on_signals
    from liveprofile.decoding.registry import SchemaRegistry
    from liveprofile.decoding.service import Decoder

    settings = read_settings(config)
    logging.getLogger("liveprofile.decoding").setLevel(logging.INFO)
    with closing(SchemaRegistry(settings.decoder)) as registry:
        decoder = Decoder.connect(settings, registry.reader)
        with stop_on_signals(decoder):
            counts = decoder.run()
    print_json(counts) if json else print_fields(counts)
