-- Grain: one unparseable line of a source. Writes: quarantine.
insert into quarantine (batch_id, kind, row_number, rule, reason, raw)
values (:batch_id, 'lines', :row_number, 'readable', :reason, to_jsonb(cast(:raw as text)))
-- Lines of a JSON file and rows of its arrays are numbered apart.
on conflict (batch_id, kind, row_number, rule) do nothing
