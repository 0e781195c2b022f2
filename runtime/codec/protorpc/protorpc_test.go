package protorpc_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/codec/codectest"
	"github.com/protomicro/micro/runtime/codec/protorpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) { codectest.Run(t, protorpc.New()) }
