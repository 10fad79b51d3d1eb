package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

var identityChecks = []check{
	{"service-account-token", serviceAccountToken},
	{"access-review", accessReview},
	{"wrong-credentials", wrongCredentials},
}

func serviceAccountToken(ctx context.Context, c *cluster) error {
	accounts := c.client.CoreV1().ServiceAccounts(c.namespace)
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	token, err := accounts.CreateToken(ctx, "robot", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: pointer[int64](900)},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if token.Status.Token == "" || token.Status.ExpirationTimestamp.IsZero() {
		return fmt.Errorf("the token is %+v", token.Status)
	}
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken = token.Status.Token
	robot, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	name := "system:serviceaccount:" + c.namespace + ":robot"
	self, err := robot.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := same("who the token is", self.Status.UserInfo.Username, name); err != nil {
		return err
	}
	if _, err := robot.CoreV1().ConfigMaps(c.namespace).List(ctx, metav1.ListOptions{}); err != nil {
		return err
	}
	review, err := c.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if !review.Status.Authenticated || review.Status.User.Username != name ||
		!slices.Contains(review.Status.User.Groups, "system:serviceaccounts:"+c.namespace) {
		return fmt.Errorf("the token is reviewed as %+v", review.Status)
	}
	review, err = c.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token + "x"},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := same("whether a forged token authenticates", review.Status.Authenticated, false); err != nil {
		return err
	}
	// A token ends with its account.
	if err := accounts.Delete(ctx, "robot", metav1.DeleteOptions{}); err != nil {
		return err
	}
	return eventually(ctx, "the token is of no use", func() error {
		_, err := robot.CoreV1().ConfigMaps(c.namespace).List(ctx, metav1.ListOptions{})
		return is("it", err, apierrors.IsUnauthorized)
	})
}

func accessReview(ctx context.Context, c *cluster) error {
	review, err := c.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: c.namespace, Verb: "create", Resource: "pods"}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return same("whether it is allowed", review.Status.Allowed, true)
}

func wrongCredentials(ctx context.Context, c *cluster) error {
	anonymous, err := kubernetes.NewForConfig(rest.AnonymousClientConfig(c.config))
	if err != nil {
		return err
	}
	_, err = anonymous.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{})
	if err == nil || !apierrors.IsUnauthorized(err) && !apierrors.IsForbidden(err) {
		return fmt.Errorf("who says nothing is answered with %w", errors.Join(err))
	}
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken = "nonsense"
	forger, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	_, err = forger.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{})
	return is("a wrong token", err, apierrors.IsUnauthorized)
}
