-- Grain: one function of the warehouse that is no part of an extension.
select
    pg_proc.proname || '(' || pg_get_function_identity_arguments(pg_proc.oid) || ')' as signature,
    coalesce(obj_description(pg_proc.oid, 'pg_proc'), '') as comment
from pg_proc
left join pg_depend on pg_proc.oid = pg_depend.objid and pg_depend.deptype = 'e'
where pg_proc.pronamespace = to_regnamespace('public') and pg_depend.objid is null
order by pg_proc.proname
