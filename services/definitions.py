"""Rules and segments: those in force, their change while jobs run, and what a change would do.

Rules may need a second person: one proposes, another approves.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cassandra.cluster import Session

from liveprofile.attributes.catalogue import AttributesError, check_attributes
from liveprofile.attributes.event_types import EventTypesError
from liveprofile.attributes.table import AttributeTable
from liveprofile.errors import ServiceError
from liveprofile.feeds.definition_topics import (
    Applied,
    DefinitionsChangedError,
    InForce,
    apply_definitions,
    read_in_force,
)
from liveprofile.rows.operations import AuditEntry
from liveprofile.rules.definition_kinds import (
    Definition,
    DefinitionKind,
    DefinitionsError,
    file_source,
)
from liveprofile.rules.rules import RULES, Rule
from liveprofile.segments.evaluation import SegmentPreview, preview
from liveprofile.segments.segments import SEGMENTS, Segment, SegmentSet
from liveprofile.segments.stored_profiles import ProfilePage, scan_profiles, with_attributes
from liveprofile.settings import Settings
from services.audit_trail import audited
from services.rule_proposals import (
    Proposal,
    ProposalState,
    decide,
    find_proposal,
    new_proposal,
    require_other,
    store_proposal,
)

PROPOSAL_TTL_S = 30 * 86_400

log = logging.getLogger(__name__)

KindName = Literal["rules", "segments"]
SOURCE = "request body"
PREVIEW_PAGE_ROWS = 1_000


KINDS: Mapping[KindName, DefinitionKind] = {"rules": RULES, "segments": SEGMENTS}


def parse(
    kind: KindName, tables: Iterable[Mapping[str, Any]], settings: Settings
) -> list[Definition]:
    """The definitions of a request.

    settings: name the file of the attributes that conditions may read. Raises DefinitionsError with
    every fault, ServiceError if that file is invalid.
    """
    of = KINDS[kind]
    definitions = of.read_tables(tables, SOURCE)
    try:
        check_attributes(SOURCE, of.error, definitions, lambda: settings)
    except (AttributesError, EventTypesError) as error:
        log.error("conditions cannot be checked: %s", error)
        raise ServiceError(str(error)) from None
    return definitions


def read_definitions(kind: KindName, file: Path, settings: Callable[[], Settings]) -> Any:
    """The rules or segments of a file, with the attributes that they read checked.

    The settings, which name the file of attributes, are read only if a condition reads one. Raises
    DefinitionsError with every fault.
    """
    of = KINDS[kind]
    found = of.read_file(file)
    source, definitions = file_source(file, of.error), getattr(found, kind)
    check_attributes(source, of.error, definitions, settings)
    return found


def read_kind(settings: Settings, kind: KindName) -> InForce:
    """The rules or segments that jobs use.

    Raises ServiceError, and DefinitionsError for the file in the settings.
    """
    return read_in_force(settings, KINDS[kind])


def in_force(session: Session, settings: Settings, kind: KindName) -> InForce:
    """As `read_kind`, for callers that did not write the file. Raises ServiceError only."""
    try:
        return read_kind(settings, kind)
    except DefinitionsError as error:
        raise ServiceError(str(error)) from None


def apply(
    session: Session | None,
    settings: Settings,
    kind: KindName,
    definitions: Sequence[Definition],
    by: str,
    expected_tag: str | None = None,
    audit: AuditEntry | None = None,
    *,
    dry_run: bool = False,
) -> Applied:
    """Makes these valid definitions the ones in force.

    expected_tag: of the definitions that the caller has seen; None: any. session: None if there is
    no `audit`. Raises DefinitionsChangedError.
    """
    with audited(session, settings, None if dry_run else audit) as entry:
        applied = apply_definitions(
            settings,
            KINDS[kind],
            definitions,
            by=by,
            dry_run=dry_run,
            expected_tag=expected_tag,
        )
        entry.before, entry.after = applied.audit()
        return applied


def preview_segments(
    session: Session,
    settings: Settings,
    now: SegmentSet,
    segments: Sequence[Segment],
    at_ms: int,
    *,
    watch: Callable[..., Iterable[ProfilePage]] = lambda pages, size: pages,
) -> tuple[int, list[SegmentPreview]]:
    """What these segments would change at a time: the number of users, and each segment.

    now: those in force. watch: passes the pages on, and may end the scan with an exception.
    """
    then, _ = SEGMENTS.valid_set(segments)
    pages = watch(
        scan_profiles(session, page_rows=PREVIEW_PAGE_ROWS), lambda page: len(page.user_ids)
    )
    if now.attributes or then.attributes:
        pages = with_attributes(pages, AttributeTable(session, settings.cassandra))
    return preview(pages, now, then, at_ms, settings.state.decay_days)


def propose_rules(
    session: Session,
    settings: Settings,
    rules: Sequence[Rule],
    base_tag: str,
    note: str,
    audit: AuditEntry,
) -> Proposal:
    """Stores valid rules for another person to approve. base_tag: as `expected_tag` of `apply`."""
    with audited(session, settings, audit) as entry:
        made = new_proposal(rules, base_tag, audit.name, note, audit.at_ms)
        store_proposal(session, made, PROPOSAL_TTL_S)
        entry.after = {"proposal_id": made.proposal_id, "rules": made.rules}
        return made


def approve_rules(
    session: Session, settings: Settings, proposal_id: str, audit: AuditEntry
) -> Proposal:
    """Puts the rules of a proposal in force.

    Raises UnknownProposalError, OwnProposalError, ProposalDecidedError, DefinitionsChangedError.
    """
    with audited(session, settings, audit) as entry:
        found = find_proposal(session, proposal_id)
        require_other(found, audit.name)
        rules = parse("rules", found.rules, settings)
        _decide(session, settings, found, ProposalState.APPROVED, audit)
        by = f"{found.proposed_by}, approved by {audit.name}"
        try:
            # Rules that an earlier attempt has applied are not applied again.
            applied = apply(session, settings, "rules", rules, by, found.base_tag)
        except DefinitionsChangedError:
            _decide(session, settings, found, ProposalState.OUTDATED, audit)
            raise
        entry.before, entry.after = applied.audit()
        return _decide(session, settings, found, ProposalState.APPLIED, audit)


def refuse_rules(
    session: Session, settings: Settings, proposal_id: str, audit: AuditEntry
) -> Proposal:
    """Raises UnknownProposalError, ProposalDecidedError."""
    with audited(session, settings, audit) as entry:
        found = find_proposal(session, proposal_id)
        refused = _decide(session, settings, found, ProposalState.REFUSED, audit)
        entry.after = {"state": refused.state.value}
        return refused


def _decide(
    session: Session, settings: Settings, found: Proposal, state: ProposalState, audit: AuditEntry
) -> Proposal:
    ttl_s = PROPOSAL_TTL_S
    return decide(session, found, state, audit.name, audit.at_ms, ttl_s)
