-- Grain: one kind of list, with its funnel from impressions to purchases in [:begins, :ends), without bots.
select
    shopper_outcomes.list,
    count(distinct shopper_outcomes.visitor) as visitors,
    count(distinct shopper_outcomes.session) as sessions,
    count(*) as lists,
    sum(shopper_outcomes.impressions) as impressions,
    sum(shopper_outcomes.clicks) as clicks,
    sum(shopper_outcomes.carts) as carts,
    sum(shopper_outcomes.purchases) as purchases,
    sum(shopper_outcomes.revenue) as revenue
from shopper_outcomes
where
    shopper_outcomes.shown_at >= :begins
    and shopper_outcomes.shown_at < :ends
group by shopper_outcomes.list
order by shopper_outcomes.list
