-- Grain: one kind of list, with how much was shown in some time and how far people went, machines left out.
select
    request_outcomes.list,
    count(distinct request_outcomes.visitor) as visitors,
    count(distinct request_outcomes.session) as sessions,
    count(*) as lists,
    sum(request_outcomes.impressions) as impressions,
    sum(request_outcomes.clicks) as clicks,
    sum(request_outcomes.carts) as carts,
    sum(request_outcomes.purchases) as purchases,
    sum(request_outcomes.revenue) as revenue
from request_outcomes
left join flagged_visitors
    on request_outcomes.visitor = flagged_visitors.visitor and request_outcomes.day = flagged_visitors.day
where
    request_outcomes.traffic = 'shopper'
    and flagged_visitors.visitor is null
    and request_outcomes.shown_at >= :begins
    and request_outcomes.shown_at < :ends
group by request_outcomes.list
order by request_outcomes.list
