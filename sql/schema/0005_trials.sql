-- Decisions about models on trial, and what reconciling put right.
alter table promotions drop constraint promotions_decision_check;
alter table promotions add constraint promotions_decision_check check (
    decision in ('promoted', 'refused', 'failed', 'rolled_back', 'trial', 'withdrawn', 'reconciled')
);

-- What is to serve follows from the digests of decisions; rollbacks did not record theirs before.
update promotions as back
set
    bundle_digest = (
        select promoted.bundle_digest
        from promotions as promoted
        where
            promoted.model_version = back.model_version
            and promoted.decision = 'promoted'
            and promoted.promotion_id < back.promotion_id
        order by promoted.promotion_id desc
        limit 1
    )
where back.decision = 'rolled_back' and back.bundle_digest is null;
