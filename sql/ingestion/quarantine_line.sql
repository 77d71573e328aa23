-- Grain: one line of a source that could not be turned into a row.
insert into quarantine (batch_id, kind, row_number, rule, reason, raw)
values (:batch_id, 'lines', :row_number, 'readable', :reason, to_jsonb(cast(:raw as text)))
