package main

import (
	_ "k8s.io/kubernetes/pkg/generated/openapi"
	_ "k8s.io/client-go/kubernetes/scheme"
	_ "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	_ "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	_ "k8s.io/api/apidiscovery/v2"
	_ "k8s.io/apimachinery/pkg/apis/meta/v1"
)
func main(){}
