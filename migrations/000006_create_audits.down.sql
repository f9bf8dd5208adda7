DROP TABLE audit_hours;
DROP TABLE audit_holds;
DROP TABLE audit_skus;
DROP TABLE audits;
