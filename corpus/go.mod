module github.com/protomicro/micro/corpus

go 1.26.0

tool (
	connectrpc.com/connect/cmd/protoc-gen-connect-go
	connectrpc.com/connect/v2/cmd/protoc-gen-connect-go
	google.golang.org/grpc/cmd/protoc-gen-go-grpc
	google.golang.org/protobuf/cmd/protoc-gen-go
)

require (
	cloud.google.com/go/accessapproval v1.13.0
	cloud.google.com/go/accesscontextmanager v1.15.0
	cloud.google.com/go/aiplatform v1.126.0
	cloud.google.com/go/analytics v0.35.0
	cloud.google.com/go/apigateway v1.13.0
	cloud.google.com/go/apigeeconnect v1.12.0
	cloud.google.com/go/apigeeregistry v1.1.0
	cloud.google.com/go/appengine v1.15.0
	cloud.google.com/go/area120 v0.15.0
	cloud.google.com/go/artifactregistry v1.26.0
	cloud.google.com/go/asset v1.28.0
	cloud.google.com/go/assuredworkloads v1.19.0
	cloud.google.com/go/automl v1.21.0
	cloud.google.com/go/baremetalsolution v1.10.0
	cloud.google.com/go/batch v1.20.0
	cloud.google.com/go/beyondcorp v1.8.0
	cloud.google.com/go/bigquery v1.79.0
	cloud.google.com/go/bigtable v1.47.0
	cloud.google.com/go/billing v1.26.0
	cloud.google.com/go/binaryauthorization v1.16.0
	cloud.google.com/go/certificatemanager v1.15.0
	cloud.google.com/go/channel v1.27.0
	cloud.google.com/go/cloudbuild v1.32.0
	cloud.google.com/go/clouddms v1.14.0
	cloud.google.com/go/cloudtasks v1.18.0
	cloud.google.com/go/compute v1.62.0
	cloud.google.com/go/contactcenterinsights v1.23.0
	cloud.google.com/go/container v1.51.0
	cloud.google.com/go/containeranalysis v0.19.0
	cloud.google.com/go/datacatalog v1.33.0
	cloud.google.com/go/dataflow v0.16.0
	cloud.google.com/go/dataform v1.2.0
	cloud.google.com/go/datafusion v1.14.0
	cloud.google.com/go/datalabeling v0.15.0
	cloud.google.com/go/dataplex v1.36.0
	cloud.google.com/go/dataproc/v2 v2.25.0
	cloud.google.com/go/dataqna v0.13.0
	cloud.google.com/go/datastore v1.25.0
	cloud.google.com/go/datastream v1.21.0
	cloud.google.com/go/deploy v1.33.0
	cloud.google.com/go/dialogflow v1.84.0
	cloud.google.com/go/dlp v1.34.0
	cloud.google.com/go/documentai v1.49.0
	cloud.google.com/go/domains v0.16.0
	cloud.google.com/go/edgecontainer v1.10.0
	cloud.google.com/go/errorreporting v0.9.0
	cloud.google.com/go/essentialcontacts v1.12.0
	cloud.google.com/go/eventarc v1.25.0
	cloud.google.com/go/filestore v1.16.0
	cloud.google.com/go/firestore v1.24.0
	cloud.google.com/go/functions v1.25.0
	cloud.google.com/go/gkebackup v1.14.0
	cloud.google.com/go/gkeconnect v1.0.0
	cloud.google.com/go/gkehub v0.22.0
	cloud.google.com/go/gkemulticloud v1.12.0
	cloud.google.com/go/gsuiteaddons v1.12.0
	cloud.google.com/go/iam v1.12.0
	cloud.google.com/go/iap v1.17.0
	cloud.google.com/go/ids v1.11.0
	cloud.google.com/go/iot v1.13.0
	cloud.google.com/go/kms v1.32.0
	cloud.google.com/go/language v1.18.0
	cloud.google.com/go/lifesciences v0.16.0
	cloud.google.com/go/logging v1.19.0
	cloud.google.com/go/longrunning v1.2.0
	cloud.google.com/go/managedidentities v1.13.0
	cloud.google.com/go/maps v1.37.0
	cloud.google.com/go/mediatranslation v0.13.0
	cloud.google.com/go/memcache v1.17.0
	cloud.google.com/go/metastore v1.20.0
	cloud.google.com/go/monitoring v1.30.0
	cloud.google.com/go/networkconnectivity v1.27.0
	cloud.google.com/go/networkmanagement v1.30.0
	cloud.google.com/go/networksecurity v0.19.0
	cloud.google.com/go/notebooks v1.18.0
	cloud.google.com/go/optimization v1.12.0
	cloud.google.com/go/orchestration v1.17.0
	cloud.google.com/go/orgpolicy v1.20.0
	cloud.google.com/go/osconfig v1.22.0
	cloud.google.com/go/oslogin v1.18.0
	cloud.google.com/go/phishingprotection v0.13.0
	cloud.google.com/go/policytroubleshooter v1.16.0
	cloud.google.com/go/privatecatalog v0.16.0
	cloud.google.com/go/pubsub v1.51.0
	cloud.google.com/go/pubsub/v2 v2.6.0
	cloud.google.com/go/pubsublite v1.10.0
	cloud.google.com/go/recaptchaenterprise/v2 v2.26.0
	cloud.google.com/go/recommendationengine v0.15.0
	cloud.google.com/go/recommender v1.19.0
	cloud.google.com/go/redis v1.24.0
	cloud.google.com/go/resourcemanager v1.16.0
	cloud.google.com/go/resourcesettings v1.8.3
	cloud.google.com/go/retail v1.32.0
	cloud.google.com/go/run v1.22.0
	cloud.google.com/go/scheduler v1.16.0
	cloud.google.com/go/secretmanager v1.20.0
	cloud.google.com/go/security v1.26.0
	cloud.google.com/go/securitycenter v1.45.0
	cloud.google.com/go/servicedirectory v1.17.0
	cloud.google.com/go/shell v1.13.0
	cloud.google.com/go/spanner v1.91.0
	cloud.google.com/go/speech v1.36.0
	cloud.google.com/go/storagetransfer v1.19.0
	cloud.google.com/go/talent v1.14.0
	cloud.google.com/go/texttospeech v1.22.0
	cloud.google.com/go/tpu v1.14.0
	cloud.google.com/go/trace v1.16.0
	cloud.google.com/go/translate v1.18.0
	cloud.google.com/go/video v1.33.0
	cloud.google.com/go/videointelligence v1.17.0
	cloud.google.com/go/vision/v2 v2.15.0
	cloud.google.com/go/vmmigration v1.16.0
	cloud.google.com/go/vmwareengine v1.9.0
	cloud.google.com/go/vpcaccess v1.14.0
	cloud.google.com/go/webrisk v1.17.0
	cloud.google.com/go/websecurityscanner v1.12.0
	cloud.google.com/go/workflows v1.20.0
	connectrpc.com/connect v1.21.1
	connectrpc.com/connect/v2 v2.0.2
	github.com/bufbuild/protocompile v0.14.1
	github.com/envoyproxy/go-control-plane/envoy v1.39.0
	github.com/protomicro/micro v0.0.0-00010101000000-000000000000
	go.etcd.io/etcd/api/v3 v3.7.3
	go.etcd.io/etcd/server/v3 v3.7.3
	go.opentelemetry.io/proto/otlp v1.11.0
	google.golang.org/genproto v0.0.0-20260715232425-e75dac1f907d
	google.golang.org/genproto/googleapis/bytestream v0.0.0-20260715232425-e75dac1f907d
	google.golang.org/grpc v1.83.2
	google.golang.org/protobuf v1.36.12
)

require (
	cel.dev/expr v0.25.2 // indirect
	github.com/cncf/xds/go v0.0.0-20260202195803-dba9d589def2 // indirect
	github.com/coreos/go-semver v0.3.1 // indirect
	github.com/coreos/go-systemd/v22 v22.7.0 // indirect
	github.com/envoyproxy/protoc-gen-validate v1.3.3 // indirect
	github.com/golang/protobuf v1.5.4 // indirect
	github.com/grpc-ecosystem/grpc-gateway/v2 v2.29.0 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/nats-io/nats.go v1.55.0 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	github.com/planetscale/vtprotobuf v0.6.1-0.20240319094008-0393e58bdf10 // indirect
	github.com/prometheus/client_model v0.6.2 // indirect
	go.etcd.io/etcd/client/pkg/v3 v3.7.3 // indirect
	go.etcd.io/etcd/client/v3 v3.7.3 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.uber.org/zap v1.27.1 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260803160001-6ac0973c030d // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260803160001-6ac0973c030d // indirect
	google.golang.org/grpc/cmd/protoc-gen-go-grpc v1.6.2 // indirect
)

replace github.com/protomicro/micro => ../
