-- Grain: one stratum of the visitors of one arm of one experiment with lists between :begins and :ends.
-- Inputs: shopper_outcomes (without bots and internal traffic).
-- Output: sums over visitors of clicks (c) and impressions (n) of recommendations, of an earlier rate (x), and of their
-- products, from which the CTR is adjusted for what visitors did before the experiment.
-- Earlier: in the :days days before the experiment's first list. The rate of a visitor with few earlier lists is near
-- the mean, as if there were :prior_impressions further impressions. The strata are the segment at the visitor's first
-- list, and whether there are earlier lists.
with interval_lists as (
    select
        experiment,
        arm,
        visitor,
        segment,
        shown_at,
        impressions,
        clicks
    from shopper_outcomes
    where
        day between cast(cast(:begins as timestamptz) at time zone 'UTC' as date)
        and cast(cast(:ends as timestamptz) at time zone 'UTC' as date)
        and shown_at >= :begins
        and shown_at < :ends
        and list = 'recommendations'
        and arm <> ''
),

by_visitor as (
    select
        experiment,
        arm,
        visitor,
        sum(impressions) as n,
        sum(clicks) as c,
        (array_agg(segment order by shown_at))[1] as segment
    from interval_lists
    group by experiment, arm, visitor
),

begun as (
    select
        experiment,
        min(shown_at) as began
    from shopper_outcomes
    where
        shown_at < :ends
        and list = 'recommendations'
        and arm <> ''
        and experiment in (select experiment from interval_lists)
    group by experiment
),

earlier as (
    select
        begun.experiment,
        lists.visitor,
        sum(lists.impressions) as n,
        sum(lists.clicks) as c
    from begun
    inner join shopper_outcomes as lists
        on
            lists.day between cast((begun.began - make_interval(days => :days)) at time zone 'UTC' as date)
            and cast(begun.began at time zone 'UTC' as date)
            and lists.shown_at >= begun.began - make_interval(days => :days)
            and begun.began > lists.shown_at
    where lists.list = 'recommendations'
    group by begun.experiment, lists.visitor
),

earlier_means as (
    select
        experiment,
        coalesce(sum(c) / nullif(sum(n), 0), 0) as rate
    from earlier
    group by experiment
),

earlier_rates as (
    select
        earlier.experiment,
        earlier.visitor,
        cast(
            (earlier.c + earlier_means.rate * :prior_impressions) / (earlier.n + :prior_impressions)
            as double precision
        ) as x
    from earlier
    inner join earlier_means on earlier.experiment = earlier_means.experiment
),

visitors as (
    select
        by_visitor.experiment,
        by_visitor.arm,
        by_visitor.c,
        by_visitor.n,
        coalesce(earlier_rates.x, 0) as x,
        by_visitor.segment || case when earlier_rates.x is null then '' else ', with earlier lists' end as stratum
    from by_visitor
    left join earlier_rates
        on by_visitor.experiment = earlier_rates.experiment and by_visitor.visitor = earlier_rates.visitor
)

select
    experiment,
    arm,
    stratum,
    count(*) as visitors,
    sum(c) as c,
    sum(n) as n,
    sum(x) as x,
    sum(c * c) as cc,
    sum(n * n) as nn,
    sum(c * n) as cn,
    sum(x * x) as xx,
    sum(x * c) as xc,
    sum(x * n) as xn
from visitors
group by experiment, arm, stratum
order by experiment, arm, stratum
