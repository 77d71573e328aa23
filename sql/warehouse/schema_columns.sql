-- Grain: one column of a table or view of the warehouse, without partitions, in the order of names and positions.
select
    case pg_class.relkind when 'v' then 'view' else 'table' end as kind,
    pg_class.relname as name,
    coalesce(obj_description(pg_class.oid, 'pg_class'), '') as comment,
    pg_attribute.attname as column_name,
    format_type(pg_attribute.atttypid, pg_attribute.atttypmod) as column_type,
    col_description(pg_class.oid, pg_attribute.attnum) as column_comment
from pg_class
inner join pg_attribute on pg_class.oid = pg_attribute.attrelid
where
    pg_class.relnamespace = to_regnamespace('public')
    and pg_class.relkind in ('r', 'p', 'v')
    and not pg_class.relispartition
    and pg_attribute.attnum > 0
    and not pg_attribute.attisdropped
order by pg_class.relkind = 'v', pg_class.relname, pg_attribute.attnum
