-- Grain: one source, with what its latest mapping says. Writes: sources.
insert into sources (source, expected_every_hours)
values (:source, :expected_every_hours)
on conflict (source) do update set
    expected_every_hours = excluded.expected_every_hours
