-- Who let a model serve, and every number the gate saw, in the shape of `Decision.as_dict`.
alter table promotions add column approved_by text;
alter table promotions add column evidence jsonb;
