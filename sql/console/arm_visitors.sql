-- Grain: one visitor of an arm of an experiment, the latest 100.
select
    visitor,
    count(*) as lists,
    sum(clicks) as clicks,
    max(shown_at) as last_seen
from shopper_outcomes
where
    experiment = :experiment
    and arm = :arm
    and day >= cast(cast(:since as timestamptz) at time zone 'UTC' as date)
group by visitor
order by max(shown_at) desc, visitor asc
limit 100
