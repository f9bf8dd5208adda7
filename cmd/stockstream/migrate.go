package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/migrations"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

func newMigrate(config *Config) *cobra.Command {
	migrate := newCommandGroup("migrate", "Bring the schema to this build's version, or take it back")
	var sure bool
	down := &cobra.Command{
		Use:   "down",
		Short: "Drop everything, the journal included",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !sure {
				return errors.New("this drops the journal, the record of every sale; add --yes if that is meant")
			}
			return migrateDown(cmd.Context(), config)
		},
	}
	down.Flags().BoolVar(&sure, "yes", false, "drop the journal")
	migrate.AddCommand(
		&cobra.Command{
			Use:   "up",
			Short: "Bring the schema to this build's version; harmless where it is there",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if err := migrateUp(cmd.Context(), config); err != nil {
					return err
				}
				return printSchema(cmd, config)
			},
		},
		down,
		&cobra.Command{
			Use:   "status",
			Short: "Say at which version the schema is; exits 1 unless it is this build's",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return printSchema(cmd, config)
			},
		},
	)
	return migrate
}

// migrateUp brings the schema up, and makes the read tables. The lines would make those when they first run; whoever
// looks before then finds them empty rather than missing.
func migrateUp(ctx context.Context, config *Config) error {
	if err := migrations.Up(ctx, config.DatabaseURL); err != nil {
		return err
	}
	return withConnection(ctx, config, func(conn *pgx.Conn) error {
		return projections.CreateTables(ctx, conn, projections.BuiltIn()...)
	})
}

// migrateDown drops the read tables, old ones and those of an interrupted rebuild included, and then everything else.
func migrateDown(ctx context.Context, config *Config) error {
	session, err := postgresConfig(config)
	if err != nil {
		return err
	}
	for _, p := range projections.BuiltIn() {
		if err := rebuild.DropOld(ctx, rebuild.Config{Postgres: session}, p); err != nil && !errors.Is(err, rebuild.ErrNoOldTables) {
			return err
		}
	}
	err = withConnection(ctx, config, func(conn *pgx.Conn) error {
		return projections.DropTables(ctx, conn, projections.BuiltIn()...)
	})
	if err != nil {
		return err
	}
	return migrations.Down(ctx, config.DatabaseURL)
}

func printSchema(cmd *cobra.Command, config *Config) error {
	conn, err := connect(cmd.Context(), config)
	if err != nil {
		return err
	}
	defer conn.Close(cmd.Context())
	version, _, err := migrations.Version(cmd.Context(), conn)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "schema version %d, this build's is %d\n", version, migrations.Latest)
	return migrations.Check(cmd.Context(), conn)
}
