"""Anonymous ids become aliases of the accounts that they log in to."""

from __future__ import annotations

import logging
from contextlib import closing

from cli.common import ConfigOption, JsonOption, print_fields, print_json, read_settings
from liveprofile.errors import InputError


def link_logins(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Merge anonymous ids into the accounts that they log in to, until Ctrl-C or SIGTERM.

    It follows the input topic. An event with `anonymous_id` says that its user has used this id on
    this device before. The first login of an anonymous id writes a merge, as
    `liveprofile identity merge` does, exactly once. Every other one is counted with its reason:
    conflicts, split ids, erased users, no consent, ids that are not as
    `logins.anonymous_id_pattern` says. docs/privacy.md has the reasons. At the end the counts are
    printed.

    Run it once. A second one takes over, and the first ends with exit code 3. The job must follow
    merges (`merges.enabled`).

    Example: `liveprofile identity link-logins --config liveprofile.toml --json`
    """
    from liveprofile.alerts.consumer.loop import stop_on_signals
    from liveprofile.consent.changes import PersonConsentBook
    from liveprofile.feeds.feed import TableTail
    from liveprofile.feeds.users import consents_spec, erasures_spec, merges_spec
    from liveprofile.identity.login_service import LoginMerger
    from liveprofile.identity.logins import Books

    settings = read_settings(config)
    if not settings.merges.enabled:
        raise InputError(
            "merges.enabled is off: the job would not follow merges. Set it and submit the job"
            " again (docs/privacy.md)"
        )
    logging.getLogger("liveprofile.identity").setLevel(logging.INFO)
    with (
        closing(TableTail(settings, merges_spec(settings))) as merges,
        closing(TableTail(settings, consents_spec(settings))) as consents,
        closing(TableTail(settings, erasures_spec(settings))) as erasures,
    ):

        def read_books() -> Books:
            book = merges.current()
            of_persons = PersonConsentBook(consents.current(), book, settings.consent.defaults)
            return Books(book, of_persons, erasures.current())

        merger = LoginMerger.connect(settings, read_books)
        with stop_on_signals(merger):
            counts = merger.run()
    print_json(counts) if json else print_fields(counts)
