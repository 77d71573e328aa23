-- Grain: one kind of list, model version ('' for all unless :by_version), experiment, arm and segment ('' for all),
-- between :begins and :ends. Unless :by_experiment, the experiment is '', the arm is :holdout or '' for all others, and
-- only users with an id in an arm of any experiment count.
-- Inputs: shopper_outcomes (without bots and internal traffic).
-- Output: sums over visitors, from which rates and their intervals are computed.
-- A visitor's clicks are not independent, so that the visitor is the sampling unit. Squares and products of a visitor's
-- numerator and denominator give the variance of the ratio of sums (Cochran, Sampling Techniques, 1977, 6.4).
-- shown_in_all estimates all impressions where only a share of the requests is logged.
with interval_requests as (
    select
        shopper_outcomes.list,
        shopper_outcomes.segment,
        shopper_outcomes.visitor,
        shopper_outcomes.session,
        shopper_outcomes.impressions,
        shopper_outcomes.sampled,
        shopper_outcomes.clicks,
        shopper_outcomes.carts,
        shopper_outcomes.purchases,
        shopper_outcomes.revenue,
        case when :by_version then shopper_outcomes.model_version else '' end as model_version,
        case when :by_experiment then shopper_outcomes.experiment else '' end as experiment,
        case when :by_experiment or shopper_outcomes.arm = :holdout then shopper_outcomes.arm else '' end as arm
    from shopper_outcomes
    where
        shopper_outcomes.day between cast(cast(:begins as timestamptz) at time zone 'UTC' as date)
        and cast(cast(:ends as timestamptz) at time zone 'UTC' as date)
        and shopper_outcomes.shown_at >= :begins
        and shopper_outcomes.shown_at < :ends
        and (:by_experiment or (shopper_outcomes.arm <> '' and starts_with(shopper_outcomes.visitor, 'u:')))
),

sessions_by_visitor as (
    select
        list,
        model_version,
        experiment,
        arm,
        segment,
        visitor,
        count(*) as requests,
        sum(impressions) as shown,
        sum(impressions / sampled) as shown_in_all,
        sum(clicks) as clicks,
        sum(carts) as carts,
        cast(max(cast(purchases > 0 as integer)) as integer) as buys,
        sum(revenue) as revenue
    from interval_requests
    group by list, model_version, experiment, arm, segment, visitor, session
),

by_visitor as (
    select
        list,
        model_version,
        experiment,
        arm,
        visitor,
        coalesce(segment, '') as segment,
        sum(requests) as requests,
        count(*) as sessions,
        sum(shown) as shown,
        sum(shown_in_all) as shown_in_all,
        sum(clicks) as clicks,
        sum(carts) as carts,
        sum(buys) as buys,
        finite_number(cast(sum(revenue) as text)) as revenue
    from sessions_by_visitor
    group by
        grouping sets (
            (list, model_version, experiment, arm, visitor),
            (list, model_version, experiment, arm, visitor, segment)
        )
    -- A list without a segment has none of its own: '' stands for all.
    having grouping(segment) = 1 or segment <> ''
)

select
    list,
    model_version,
    experiment,
    arm,
    segment,
    count(*) as visitors,
    count(*) filter (where clicks > 0) as acting,
    sum(requests) as requests,
    sum(sessions) as sessions,
    sum(shown) as shown,
    sum(shown_in_all) as shown_in_all,
    sum(clicks) as clicks,
    sum(carts) as carts,
    sum(buys) as buys,
    sum(revenue) as revenue,
    sum(shown * shown) as shown_squared,
    sum(sessions * sessions) as sessions_squared,
    sum(clicks * clicks) as clicks_squared,
    sum(carts * carts) as carts_squared,
    sum(buys * buys) as buys_squared,
    sum(revenue * revenue) as revenue_squared,
    sum(clicks * shown) as clicks_shown,
    sum(carts * shown) as carts_shown,
    sum(buys * sessions) as buys_sessions,
    sum(revenue * sessions) as revenue_sessions
from by_visitor
group by list, model_version, experiment, arm, segment
order by list, model_version, experiment, arm, segment
