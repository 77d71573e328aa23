-- Grain: one broken rule of one landed row, kept with the whole row as it was sent. Reads: broken_rows, a table
-- of this transaction with the row numbers that broke the rule.
insert into quarantine (batch_id, kind, row_number, rule, reason, raw)
select
    :batch_id as batch_id,
    :kind as kind,
    broken_rows.row_number,
    :rule as rule,
    :reason as reason,
    coalesce(to_jsonb(landing_events), to_jsonb(landing_items), to_jsonb(landing_users))
    - 'batch_id' - 'row_number' as raw
from broken_rows
left join landing_events
    on
        :kind = 'events'
        and landing_events.batch_id = :batch_id
        and broken_rows.row_number = landing_events.row_number
left join landing_items
    on
        :kind = 'items'
        and landing_items.batch_id = :batch_id
        and broken_rows.row_number = landing_items.row_number
left join landing_users
    on
        :kind = 'users'
        and landing_users.batch_id = :batch_id
        and broken_rows.row_number = landing_users.row_number
on conflict (batch_id, kind, row_number, rule) do nothing
