import os

from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from .models import Item, Order


@require_GET
def home(request):
    return HttpResponse(f"Bazaar: {Order.objects.count()} orders")


@require_GET
def healthz(request):
    Order.objects.exists()
    response = HttpResponse("ok")
    response["x-release"] = os.environ.get("PLIMSOLL_RELEASE", "")
    return response


@require_GET
def checkout(request):
    return HttpResponse("Checkout")


@csrf_exempt
@require_POST
def order(request):
    with transaction.atomic():
        placed = Order.objects.create(reference=request.POST["reference"])
        Item.objects.create(
            order=placed, product_id=int(request.POST["item"]), quantity=int(request.POST["qty"])
        )
    return JsonResponse({"id": placed.id}, status=201)
