from django.urls import path

from orders import views

urlpatterns = [
    path("", views.home),
    path("healthz", views.healthz),
    path("checkout", views.checkout),
    path("orders", views.order),
]
