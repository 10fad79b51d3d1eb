module weft.invalid/kube-proxy-1.23

go 1.16

require (
	k8s.io/api v0.23.3
	k8s.io/client-go v0.23.3
	k8s.io/kubernetes v1.23.3
	k8s.io/utils v0.0.0-20211116205334-6203023598ed
	sigs.k8s.io/yaml v1.2.0
	weft.invalid/scene v0.0.0
)

replace k8s.io/api => k8s.io/api v0.23.3

replace k8s.io/apiextensions-apiserver => k8s.io/apiextensions-apiserver v0.23.3

replace k8s.io/apimachinery => k8s.io/apimachinery v0.23.3

replace k8s.io/apiserver => k8s.io/apiserver v0.23.3

replace k8s.io/cli-runtime => k8s.io/cli-runtime v0.23.3

replace k8s.io/client-go => k8s.io/client-go v0.23.3

replace k8s.io/cloud-provider => k8s.io/cloud-provider v0.23.3

replace k8s.io/cluster-bootstrap => k8s.io/cluster-bootstrap v0.23.3

replace k8s.io/code-generator => k8s.io/code-generator v0.23.3

replace k8s.io/component-base => k8s.io/component-base v0.23.3

replace k8s.io/component-helpers => k8s.io/component-helpers v0.23.3

replace k8s.io/controller-manager => k8s.io/controller-manager v0.23.3

replace k8s.io/cri-api => k8s.io/cri-api v0.23.3

replace k8s.io/csi-translation-lib => k8s.io/csi-translation-lib v0.23.3

replace k8s.io/kube-aggregator => k8s.io/kube-aggregator v0.23.3

replace k8s.io/kube-controller-manager => k8s.io/kube-controller-manager v0.23.3

replace k8s.io/kube-proxy => k8s.io/kube-proxy v0.23.3

replace k8s.io/kube-scheduler => k8s.io/kube-scheduler v0.23.3

replace k8s.io/kubectl => k8s.io/kubectl v0.23.3

replace k8s.io/kubelet => k8s.io/kubelet v0.23.3

replace k8s.io/legacy-cloud-providers => k8s.io/legacy-cloud-providers v0.23.3

replace k8s.io/metrics => k8s.io/metrics v0.23.3

replace k8s.io/mount-utils => k8s.io/mount-utils v0.23.3

replace k8s.io/pod-security-admission => k8s.io/pod-security-admission v0.23.3

replace k8s.io/sample-apiserver => k8s.io/sample-apiserver v0.23.3

replace k8s.io/sample-cli-plugin => k8s.io/sample-cli-plugin v0.23.3

replace k8s.io/sample-controller => k8s.io/sample-controller v0.23.3

replace k8s.io/gengo => k8s.io/gengo v0.0.0-20210813121822-485abfe95c7c

replace k8s.io/klog/v2 => k8s.io/klog/v2 v2.30.0

replace k8s.io/kube-openapi => k8s.io/kube-openapi v0.0.0-20211115234752-e816edb12b65

replace k8s.io/utils => k8s.io/utils v0.0.0-20211116205334-6203023598ed

replace sigs.k8s.io/json => sigs.k8s.io/json v0.0.0-20211020170558-c049b76a60c6

replace sigs.k8s.io/structured-merge-diff/v4 => sigs.k8s.io/structured-merge-diff/v4 v4.2.1

replace sigs.k8s.io/yaml => sigs.k8s.io/yaml v1.2.0

replace weft.invalid/scene => ../scene
