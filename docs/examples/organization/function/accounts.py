"""Which accounts of an organization to visit."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def select_accounts(
    organizations: Any,
    *,
    parents: Iterable[str] = (),
    tags: Mapping[str, str] | None = None,
    excluded: Iterable[str] = (),
) -> list[str]:
    """Return the IDs of active accounts, without the management account.

    Args:
        organizations: A client for AWS Organizations.
        parents: IDs of organizational units, whose nested units count too. By default
            the whole organization.
        tags: Tags that an account must have.
        excluded: IDs of accounts to leave out.
    """
    found = {
        account["Id"]
        for parent in parents or root_ids(organizations)
        for account in accounts_below(organizations, parent)
        if is_active(account)
    }
    organization = organizations.describe_organization()["Organization"]
    found -= {organization["MasterAccountId"], *excluded}
    if tags:
        found = {account for account in found if has_tags(organizations, account, tags)}
    return sorted(found)


def root_ids(organizations: Any) -> list[str]:
    """Return the IDs of the organization's roots. There is one."""
    pages = organizations.get_paginator("list_roots").paginate()
    return [root["Id"] for page in pages for root in page["Roots"]]


def accounts_below(organizations: Any, parent: str) -> Iterator[Any]:
    """Yield the accounts of a root or unit, and of all units below it."""
    accounts = organizations.get_paginator("list_accounts_for_parent")
    for page in accounts.paginate(ParentId=parent):
        yield from page["Accounts"]
    units = organizations.get_paginator("list_organizational_units_for_parent")
    for page in units.paginate(ParentId=parent):
        for unit in page["OrganizationalUnits"]:
            yield from accounts_below(organizations, unit["Id"])


def is_active(account: Any) -> bool:
    """Tell whether an account is neither suspended nor about to be closed."""
    # Older SDKs don't know State yet, and AWS removes Status.
    return bool(account.get("State", account.get("Status")) == "ACTIVE")


def has_tags(organizations: Any, account: str, tags: Mapping[str, str]) -> bool:
    """Tell whether an account has all of these tags."""
    pages = organizations.get_paginator("list_tags_for_resource")
    found: dict[str, str] = {}
    for page in pages.paginate(ResourceId=account):
        found |= {tag["Key"]: tag["Value"] for tag in page["Tags"]}
    return tags.items() <= found.items()
