-- Grain: one row.
-- Inputs: shopper_outcomes (without bots and internal traffic).
-- Output: when the first list between :begins and :ends was shown to a visitor of the holdout; null without any.
select min(shown_at)
from shopper_outcomes
where
    day between cast(cast(:begins as timestamptz) at time zone 'UTC' as date)
    and cast(cast(:ends as timestamptz) at time zone 'UTC' as date)
    and shown_at >= :begins
    and shown_at < :ends
    and arm = :holdout
