-- Parts hold searches and their words since 0.3.0: those of before are built anew.
delete from feature_parts;
