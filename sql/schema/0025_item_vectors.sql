-- External item vectors: of images, texts or sounds, by encoders that the shop runs itself.

create table item_vectors (
    item_id text not null,
    space text not null,
    version text not null,
    batch integer not null references batches (number),
    vector real[] not null,
    primary key (space, version, item_id, batch)
);
alter table item_vectors alter column vector set storage external;  -- numbers of vectors hardly compress
comment on table item_vectors is
'Vectors of items that other encoders made; a snapshot has the latest version of each space.';
comment on column item_vectors.item_id is 'Id of the item; it may be unknown so far.';
comment on column item_vectors.space is 'What the vectors are of, such as image.';
comment on column item_vectors.version is
'Version of the encoder; vectors of different versions cannot be compared. Empty without versions.';
comment on column item_vectors.batch is 'Number of the batch that delivered it.';
comment on column item_vectors.vector is 'The numbers; of one space and version all have the same dimension.';

create function real_vector(value text) returns real[]
language plpgsql immutable parallel safe
as $$
declare
    listed text := translate(value, '[]', '{}');
begin
    if value !~ '^\[[-+0-9.eE,\s]*\]$' then
        return null;
    end if;
    if pg_input_is_valid(listed, 'real[]') then
        return nullif(cast(listed as real[]), '{}');
    end if;
    if not pg_input_is_valid(listed, 'double precision[]') then
        return null;
    end if;
    -- Some number is too small for single precision, or too large.
    return (
        select
            case
                when bool_and(abs(number) < 3e38)
                    then array_agg(
                        cast(case when abs(number) >= 3e38 or abs(number) < 1e-37 then 0 else number end as real)
                        order by place
                    )
            end
        from unnest(cast(listed as double precision[])) with ordinality as numbers (number, place)
    );
end
$$;
comment on function real_vector is
'The numbers of a list in JSON as a vector in single precision; null unless all are finite numbers. Tiny ones are 0.';

alter table quarantine
drop constraint quarantine_kind_check,
add constraint quarantine_kind_check check (kind in ('items', 'users', 'vectors', 'events', 'lines'));

-- Batches that are landed but not validated yet.
do $$
declare
    landing text;
begin
    for landing in
        select table_schema from information_schema.tables where table_name = 'landed_users'
    loop
        execute format(
            'create table if not exists %I.landed_vectors'
            ' (row_number bigint not null, item_id text, space text, version text, vector text)',
            landing
        );
    end loop;
end
$$;
