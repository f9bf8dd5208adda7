package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/migrations"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

func newMigrate(config *Config) *cobra.Command {
	migrate := newCommandGroup("migrate", "Migrate the Postgres schema")
	var confirmed bool
	down := &cobra.Command{
		Use:   "down",
		Short: "Drop all tables, including the journal",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !confirmed {
				return errors.New("this drops the journal, the record of every sale; to confirm, add --yes")
			}
			return migrateDown(cmd.Context(), config)
		},
	}
	down.Flags().BoolVar(&confirmed, "yes", false, "confirm that the journal is to be dropped")
	migrate.AddCommand(
		&cobra.Command{
			Use:   "up",
			Short: "Migrate the schema to this build's version; does nothing if it is there already",
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
			Short: "Print the schema's version; exits 1 unless it is this build's version",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return printSchema(cmd, config)
			},
		},
	)
	return migrate
}

// migrateUp migrates the schema to this build's version and creates the read tables. The
// projections' workers would also create them, but only when they start. A query before
// that would fail instead of finding no rows.
func migrateUp(ctx context.Context, config *Config) error {
	if err := migrations.Up(ctx, config.DatabaseURL); err != nil {
		return err
	}
	return withConnection(ctx, config, func(conn *pgx.Conn) error {
		return projections.CreateTables(ctx, conn, projections.BuiltIn()...)
	})
}

// migrateDown drops the read tables, including old ones and those of an interrupted
// rebuild, and then all other tables.
func migrateDown(ctx context.Context, config *Config) error {
	session, err := postgres.ParseURL(config.DatabaseURL)
	if err != nil {
		return err
	}
	for _, p := range projections.BuiltIn() {
		err := rebuild.DropOld(ctx, rebuild.Config{Postgres: session}, p)
		if err != nil && !errors.Is(err, rebuild.ErrNoOldTables) {
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
